"""Time the transformer's training step against the published way, and weigh what it needs.

All ways start from the same weights and train on the same batch of codes. The published one runs
in float32; a large matrix product in each format, measured beside them, is the processor's limit.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import records
import torch
from published_training import step_as_published
from torch import Tensor

from tats.errors import UserError, one_line_errors
from tats.models.gpt import GPT
from tats.models.transformer import ADAM_BETAS, WEIGHT_DECAY, Net2NetTransformer

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
LOSS_TOLERANCE = {"32": 1e-5, "bf16": 1e-2}  # relative
LIMITS = ("matrix product 32", "matrix product bf16")


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--n_layer", type=int, default=6)
    add("--n_head", type=int, default=8)
    add("--n_embd", type=int, default=256)
    add("--latent_shape", type=int, nargs=3, default=[4, 16, 16], help="codes of one video")
    add("--batch_size", type=int, default=4, help="videos")
    add("--n_codes", type=int, default=16384)
    add("--n_classes", type=int, default=101, help="tokens of the condition")
    add("--precisions", nargs="+", default=["32", "bf16"], choices=DTYPES)
    add("--n_repeats", type=int, default=7, help="timed steps of each, taken in turn")
    add("--matrix", type=int, default=2048, help="side of the matrix product that is the limit")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--no_record", action="store_true", help="do not append to RECORDS.md")
    return parser


class Way(NamedTuple):
    """One way to train: a model of its own, its optimiser, and its loss of a batch."""

    model: Net2NetTransformer
    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]

    def step(self) -> float:
        """Take one training step; returns the loss before it."""
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Check, weigh, time and record."""
    args = build_parser().parse_args(argv)
    if args.n_repeats < 1:
        raise UserError(f"--n_repeats got {args.n_repeats}; expected at least 1")
    device = torch.device(args.device)
    names = ("baseline", *args.precisions)
    peaks, losses = {}, {}
    for name in names:  # one at a time: what a way needs is all that is there
        peaks[name], losses[name] = weigh(functools.partial(make, args, name, device), device)
        tolerance = LOSS_TOLERANCE.get(name, 0.0)
        assert abs(losses[name] - losses["baseline"]) <= tolerance * losses["baseline"], losses
    times, limits = time_all(args, names, device)
    report(args, device, times, peaks, limits)


def make(args: argparse.Namespace, name: str, device: torch.device) -> Way:
    """Build one way to train; all have the same weights and batch."""
    torch.manual_seed(0)
    n_tokens = args.latent_shape[0] * args.latent_shape[1] * args.latent_shape[2]
    flags = {
        "n_layer": args.n_layer, "n_head": args.n_head, "n_embd": args.n_embd, "vtokens": True,
        "first_stage_vocab_size": args.n_codes, "class_cond_dim": args.n_classes,
        "block_size": n_tokens, "sequence_length": args.latent_shape[0],
        "resolution": args.latent_shape[1],
    }  # fmt: skip
    model = Net2NetTransformer(flags).to(device)
    shape = (args.batch_size, *args.latent_shape)
    video = torch.randint(args.n_codes, shape, device=device)
    label = torch.randint(args.n_classes, (args.batch_size,), device=device)
    if name == "baseline":
        codes = video.flatten(1) + args.n_classes
        optimizer = torch.optim.AdamW(_groups(model.transformer), lr=1e-4, betas=ADAM_BETAS)
        return Way(
            model, optimizer, lambda: step_as_published(model.transformer, label[:, None], codes)[0]
        )
    model.learning_rate = 1e-4

    def loss() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            return model.shared_step({"video": video, "label": label}, 0)[0]

    return Way(model, model.configure_optimizers(), loss)


def _groups(gpt: GPT) -> list[dict[str, Any]]:
    """Weights of linear layers, which decay, and the rest."""
    decayed = [m.weight for m in gpt.modules() if isinstance(m, torch.nn.Linear)]
    known = {id(weight) for weight in decayed}
    rest = [p for p in gpt.parameters() if id(p) not in known]
    return [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": rest, "weight_decay": 0.0},
    ]


def weigh(make: Callable[[], Way], device: torch.device) -> tuple[int, float]:
    """Most bytes a way holds over two steps, weights and moments included; its first loss."""
    before = records.begin_peak(device)
    way = make()
    loss = way.step()
    way.step()
    return records.peak_since(before, device), loss


def time_all(
    args: argparse.Namespace, names: Sequence[str], device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time steps of all ways in turn, and the matrix products; returns seconds, FLOP/s."""
    works: dict[str, Callable[[], object]] = {name: make(args, name, device).step for name in names}
    for limit in LIMITS:
        matrix = torch.randn(
            args.matrix, args.matrix, device=device, dtype=DTYPES[limit.split()[-1]]
        )
        works[limit] = lambda matrix=matrix: matrix @ matrix  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(args.n_repeats):
        for name, work in works.items():
            times[name].append(records.seconds(work, device))
            print(f"{name}: {times[name][-1]:.3f} s", file=sys.stderr)
    limits = {name: 2 * args.matrix**3 / min(times.pop(name)) for name in LIMITS}
    return times, limits


def flops(args: argparse.Namespace) -> int:
    """Multiplications and additions of a step that the model needs: three forward passes."""
    n_tokens = args.latent_shape[0] * args.latent_shape[1] * args.latent_shape[2]
    layer = 24 * args.n_embd**2 + 2 * n_tokens * args.n_embd  # a token sees half the tokens
    head = 2 * args.n_embd * (args.n_codes + args.n_classes)
    return 3 * args.batch_size * n_tokens * (args.n_layer * layer + head)


def report(
    args: argparse.Namespace,
    device: torch.device,
    times: dict[str, list[float]],
    peaks: dict[str, int],
    limits: dict[str, float],
) -> None:
    """Print one JSON line and append the record."""
    median = {name: statistics.median(values) for name, values in times.items()}
    result, figures = {}, {}
    for name, values in times.items():
        limit = limits[f"matrix product {'32' if name == 'baseline' else name}"]
        ratio, share = median["baseline"] / median[name], flops(args) / median[name] / limit
        memory = peaks[name] / peaks["baseline"]
        result[name] = {"seconds": values, "ratio": ratio, "mfu": share, "peak_bytes": peaks[name]}
        figures[name] = (
            f"{records.median_and_spread(values, 's')}, **{ratio:.2f}×**, {share:.0%} of the "
            f"matrix product's speed, peak {peaks[name] / 1e9:.2f} GB ({memory:.2f}×)"
        )
    for name, limit in limits.items():
        result[name] = {"GFLOP_s": limit / 1e9}
        figures[name] = f"{limit / 1e9:.0f} GFLOP/s"
    print(json.dumps(result))
    if not args.no_record:
        records.append(device, figures)


if __name__ == "__main__":
    main()
