"""Tokens the decode engine writes a second, against the published algorithm in the same run.

The baseline joins its whole cache anew for every token, in float32, eagerly, and sorts the whole
vocabulary. Both first write the same greedy tokens; the float32 engine must agree in every one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import records
import torch
from published_decoding import decode_as_published
from torch import Tensor

from tats.errors import UserError, one_line_errors
from tats.models.gpt import GPT
from tats.randomness import draw_keys
from tats.sampling import TokenFilter, fill, whole
from tats.sampling.engines import engine_for, quantize_
from tats.sampling.slots import plan_slots

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
GREEDY = TokenFilter(temperature=0.0)
EARLY, LATE = 100, 1000  # tokens between whose costs the growth is stated
N_STEPS, N_TIMINGS = 20, 8


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--n_layer", type=int, default=8)
    add("--n_head", type=int, default=8)
    add("--n_embd", type=int, default=512)
    add("--vocab_size", type=int, default=1125)
    add("--block_size", type=int, default=1024)
    add("--batch_size", type=int, default=4)
    add("--n_tokens", type=int, default=1024)
    add("--top_k", type=int, default=2048)
    add("--top_p", type=float, default=0.92)
    add("--engines", nargs="+", default=["32", "bf16", "int8"], choices=[*DTYPES, "int8"])
    add("--n_repeats", type=int, default=3, help="timed runs of each, taken in turn")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--no_record", action="store_true", help="do not append to RECORDS.md")
    add("--memory_of", default=None, help=argparse.SUPPRESS)  # a run of its own for one engine
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and record."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    if not 0 < args.n_tokens <= args.block_size:
        raise UserError(f"--n_tokens got {args.n_tokens}; expected 1 to --block_size")
    device = torch.device(args.device)
    if args.memory_of is not None:
        print(json.dumps(peak_memory(args, device)))
        return
    start = torch.zeros(args.batch_size, 1, dtype=torch.int64, device=device)
    baseline = make_gpt(args, device, "32")
    models = {name: make_stored(args, device, name) for name in args.engines}
    agreement = agreement_of(args, baseline, models, start)
    if agreement.get("32", 1.0) < 1.0:
        raise UserError("the float32 engine's greedy tokens differ from the baseline's")

    runs: dict[str, Callable[[], object]] = {
        "baseline": lambda: decode_as_published(
            baseline, start, args.n_tokens, top_k=args.top_k, top_p=args.top_p
        )
    }
    for name, gpt in models.items():
        runs[name] = lambda gpt=gpt: write(args, gpt, start)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.n_repeats):
        for name, run in runs.items():
            times[name].append(records.seconds(run, device))
            print(f"{name}: {times[name][-1]:.2f} s", file=sys.stderr)
    bandwidth = records.copy_bandwidth(device)
    figures = {"baseline": records.median_and_spread(times["baseline"], "s")}
    result: dict[str, object] = {
        "baseline_seconds": times["baseline"],
        "copy_GB_s": bandwidth / 1e9,
    }
    for name, gpt in models.items():
        facts = engine_facts(args, argv, gpt, name, times, bandwidth, start)
        result[name] = {**facts, "greedy_agreement": agreement[name]}
        figures[name] = describe(facts, times[name], agreement[name])
    figures["copy bandwidth"] = f"{bandwidth / 1e9:.1f} GB/s"
    print(json.dumps(result))
    if not args.no_record:
        records.append(device, figures)


def make_gpt(args: argparse.Namespace, device: torch.device, name: str) -> GPT:
    """Build the benchmark's model; its weights are random but the same every time."""
    torch.manual_seed(0)
    gpt = GPT(
        vocab_size=args.vocab_size,
        block_size=args.block_size,
        n_layer=args.n_layer,
        n_head=args.n_head,
        n_embd=args.n_embd,
    )
    with torch.no_grad():
        # As large as a trained model's, so that greedy tokens are far from ties.
        gpt.pos_emb.normal_(std=0.05)
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.05)
    return gpt.eval().requires_grad_(False).to(device, DTYPES.get(name, torch.float32))


def make_stored(args: argparse.Namespace, device: torch.device, name: str) -> GPT:
    """Build the model with its weights stored in one precision, or in 8 bits."""
    gpt = make_gpt(args, device, "bf16" if name == "int8" else name)
    if name == "int8":
        quantize_(gpt)
    return gpt


def write(args: argparse.Namespace, gpt: GPT, start: Tensor, n_tokens: int | None = None) -> Tensor:
    """Sample as the samplers do."""
    n_tokens = n_tokens or args.n_tokens
    canvas = torch.full((len(start), n_tokens), -1, device=start.device)
    token_filter = TokenFilter(top_k=args.top_k, top_p=args.top_p)
    seeds = range(len(start))
    return fill(gpt, canvas, start, whole(n_tokens), token_filter=token_filter, seeds=seeds)


@torch.no_grad()
def agreement_of(
    args: argparse.Namespace, baseline: GPT, models: dict[str, GPT], start: Tensor
) -> dict[str, float]:
    """Share of greedy tokens each engine has in common with the baseline.

    The float32 engine writes its own; the others, which would go ways of their own after a first
    difference, choose each token after the baseline's tokens before it.
    """
    expected = decode_as_published(baseline, start, args.n_tokens, top_k=1)
    before = torch.cat([start, expected[:, :-1]], dim=1)
    result = {}
    for name, gpt in models.items():
        if name == "32":
            canvas = torch.full_like(expected, -1)
            chosen = fill(gpt, canvas, start, whole(args.n_tokens), token_filter=GREEDY)
        else:
            chosen = gpt(before).argmax(dim=2)
        result[name] = float((chosen == expected).float().mean())
    return result


def engine_facts(
    args: argparse.Namespace,
    argv: Sequence[str],
    gpt: GPT,
    name: str,
    times: dict[str, list[float]],
    bandwidth: float,
    start: Tensor,
) -> dict[str, float]:
    """Everything measured about one engine."""
    median = statistics.median(times[name])
    per_token = median / args.n_tokens
    weights, cache = bytes_read(args, name)
    facts = {
        "ms_per_token": per_token * 1e3,
        "tokens_per_second": args.batch_size / per_token,
        "videos_per_second": args.batch_size / median,
        "ratio": statistics.median(times["baseline"]) / median,
        "roofline": (weights + cache * args.n_tokens / 2) / bandwidth / per_token,
        "weights_MB": weights / 1e6,
        "cache_MB": cache * args.n_tokens / 1e6,
    }
    if args.n_tokens >= LATE + N_STEPS:
        facts["growth"] = growth(args, gpt, start)
    command = [sys.executable, __file__, *argv, "--memory_of", name]
    facts |= json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return facts


def bytes_read(args: argparse.Namespace, name: str) -> tuple[float, float]:
    """Bytes of all weights a token reads, and of the cache for each token before it."""
    layers = 12 * args.n_layer * args.n_embd**2
    head = args.vocab_size * args.n_embd
    size = 4 if name == "32" else 2
    weights = layers * (1 if name == "int8" else size) + head * size
    return weights, 2 * args.n_layer * args.batch_size * args.n_embd * size


@torch.no_grad()
def growth(args: argparse.Namespace, gpt: GPT, start: Tensor) -> float:
    """Cost of token 1000 over that of token 100: medians of twenty tokens behind each."""
    n_samples, device = len(start), start.device
    engine = engine_for(
        gpt,
        batch_size=n_samples,
        n_slots=args.n_tokens,
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
        valid_tokens=(0, args.vocab_size),
    )
    (window,) = whole(args.n_tokens)
    plan = plan_slots(gpt, window, start.shape[1], "released")
    keys = draw_keys(range(n_samples), N_STEPS + 1).to(device)

    def take_steps(token: Tensor) -> None:
        for _ in range(N_STEPS):
            token = engine.step(token)

    costs: dict[int, list[float]] = {EARLY: [], LATE: []}
    for _ in range(N_TIMINGS):
        for first, seconds in costs.items():
            token = engine.begin(plan, start.expand(-1, first), keys)
            seconds.append(records.seconds(lambda token=token: take_steps(token), device))
    return statistics.median(costs[LATE][1:]) / statistics.median(costs[EARLY][1:])


def peak_memory(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Memory one engine's run adds to a process that has only imported its libraries."""
    import pytorch_lightning  # noqa: F401  the samplers import it too

    start = torch.zeros(args.batch_size, 1, dtype=torch.int64, device=device)
    if device.type == "cuda":
        write(args, make_stored(args, device, args.memory_of), start)
        return {"peak_MB": torch.cuda.max_memory_allocated(device) / 1e6}
    before = records.peak_resident_bytes(reset=True)
    write(args, make_stored(args, device, args.memory_of), start)
    return {"peak_MB": (records.peak_resident_bytes() - before) / 1e6}


def describe(facts: dict[str, float], seconds: Sequence[float], agreement: float) -> str:
    """Put an engine's facts into a table's cell."""
    words = [
        records.median_and_spread(seconds, "s"),
        f"**{facts['ratio']:.1f}×**",
        f"{facts['ms_per_token']:.2f} ms/token",
        f"{facts['tokens_per_second']:.0f} tokens/s",
        f"{facts['videos_per_second']:.3f} videos/s",
        f"peak +{facts['peak_MB']:.0f} MB (weights {facts['weights_MB']:.0f}, "
        f"cache {facts['cache_MB']:.0f})",
        f"{facts['roofline']:.0%} of the roofline",
        f"greedy tokens equal {agreement:.0%}",
    ]
    if "growth" in facts:
        words.insert(4, f"token 1000 / token 100 {facts['growth']:.2f}×")
    return ", ".join(words)


if __name__ == "__main__":
    main()
