"""Time a latent frame and peak memory of long videos, against their length.

Every length is sampled in a process of its own, from random weights, by a sliding window; its
frames are decoded in chunks and written to disk as they come.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import records
import torch

from tats.errors import one_line_errors
from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN
from tats.pipeline import TATS
from tats.sampling.passes import VideoSampler

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags; the defaults are small enough for two processor cores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--n_layer", type=int, default=4)
    add("--n_head", type=int, default=4)
    add("--n_embd", type=int, default=128)
    add("--n_codes", type=int, default=256)
    add("--n_hiddens", type=int, default=16)
    add("--downsample", type=int, nargs=3, default=[4, 8, 8])
    add("--resolution", type=int, default=32)
    add("--context", type=int, default=1, help="latent frames of context, --temporal_sample_pos")
    add("--lengths", type=int, nargs="+", default=[64, 256, 1024], help="latent frames")
    add("--n_repeats", type=int, default=3, help="runs of each length, taken in turn")
    add("--precision", default="32", choices=DTYPES)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--no_record", action="store_true", help="do not append to RECORDS.md")
    add("--one_length", type=int, default=None, help=argparse.SUPPRESS)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every length and record."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    device = torch.device(args.device)
    if args.one_length is not None:
        print(json.dumps(measure(args, device, args.one_length)))
        return
    runs: dict[int, list[dict[str, float]]] = {length: [] for length in args.lengths}
    for _ in range(args.n_repeats):
        for length, facts in runs.items():
            command = [sys.executable, __file__, *argv, "--one_length", str(length)]
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            facts.append(json.loads(run.stdout))
            print(f"{length}: {facts[-1]}", file=sys.stderr)
    print(json.dumps(runs))
    if not args.no_record:
        records.append(device, {f"{n} latent frames": describe(n, runs[n]) for n in runs})


def describe(length: int, facts: Sequence[dict[str, float]]) -> str:
    """Put the runs of one length into a table's cell."""

    def of(name: str, unit: str, digits: int) -> str:
        return records.median_and_spread([run[name] for run in facts], unit, digits)

    per_latent = [run["seconds"] / length * 1e3 for run in facts]
    return (
        f"{of('seconds', 's', 1)}, {records.median_and_spread(per_latent, 'ms', 1)} a latent frame "
        f"(tokens {of('tokens_ms_per_latent', 'ms', 1)}, pixels "
        f"{of('frames_ms_per_latent', 'ms', 1)}), peak +{of('peak_MB', 'MB', 0)}"
    )


def measure(args: argparse.Namespace, device: torch.device, length: int) -> dict[str, float]:
    """Sample one video of some latent frames; times, and memory beyond that of the libraries."""
    before = records.peak_resident_bytes(reset=True)
    sampler = make_sampler(args, device, length)
    start = time.perf_counter()
    canvas = sampler.new_canvas([0])
    for share in sampler.passes:
        condition = share.condition([0]).to(device)
        for _ in share.fill(canvas, condition, share.schedule, [0]):
            pass
    records.synchronize(device)
    sampled = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        for frames in sampler.stream([0], canvas):  # nothing is left but to decode
            file.write(frames.numpy().data)
    end = time.perf_counter()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = records.peak_resident_bytes() - before
    return {
        "seconds": end - start,
        "tokens_ms_per_latent": (sampled - start) / length * 1e3,
        "frames_ms_per_latent": (end - sampled) / length * 1e3,
        "peak_MB": peak / 1e6,
    }


def make_sampler(args: argparse.Namespace, device: torch.device, length: int) -> VideoSampler:
    """Build models with random weights, and plan one long video."""
    torch.manual_seed(0)
    flags = {
        "n_codes": args.n_codes, "n_hiddens": args.n_hiddens, "downsample": args.downsample,
        "embedding_dim": 64, "norm_type": "batch", "resolution": args.resolution,
        "n_layer": args.n_layer, "n_head": args.n_head, "n_embd": args.n_embd,
        "unconditional": True,
    }  # fmt: skip
    vqgan = VQGAN(flags, for_training=False).eval()
    n_tokens = math.prod(vqgan.latent_shape)
    model = Net2NetTransformer({**flags, "block_size": n_tokens}, first_stage_model=vqgan)
    model = model.eval().to(device, DTYPES[args.precision])
    model.first_stage_model.to(torch.float32)
    return TATS(model).sampler(n_latent_frames=length, context=args.context, sliding=True)


if __name__ == "__main__":
    main()
