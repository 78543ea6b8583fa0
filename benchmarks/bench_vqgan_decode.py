"""Time the VQGAN's decoder as the samplers run it, against its plain eager float32 forward.

The processor's own limit, a large float32 matrix product, is measured beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence

import records
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tats.errors import one_line_errors
from tats.models.vqgan import VQGAN
from tats.sampling.pixels import FrameDecoder
from tats.video_io import to_uint8

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
MATRIX = 2048


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--n_hiddens", type=int, default=32)
    add("--downsample", type=int, nargs=3, default=[4, 8, 8])
    add("--latent_shape", type=int, nargs=3, default=[4, 16, 16])
    add("--batch_size", type=int, default=1)
    add("--n_codes", type=int, default=2048)
    add("--embedding_dim", type=int, default=256)
    add("--precisions", nargs="+", default=["32"], choices=DTYPES)
    add("--n_repeats", type=int, default=5, help="timed runs of each, taken in turn")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--no_record", action="store_true", help="do not append to RECORDS.md")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and record."""
    args = build_parser().parse_args(argv)
    device = torch.device(args.device)
    torch.manual_seed(0)
    vqgan = make_vqgan(args).to(device)
    codes = torch.randint(args.n_codes, (args.batch_size, *args.latent_shape), device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = to_uint8(vqgan.decode(codes))
    flops = counter.get_total_flops()

    runs: dict[str, Callable[[], Tensor]] = {"baseline": lambda: plain(vqgan, codes)}
    for name in args.precisions:
        decoder = FrameDecoder(vqgan, dtype=DTYPES[name])
        runs[name] = lambda decoder=decoder: decoder.video(codes)  # type: ignore[misc]
    errors = {name: mean_difference(run(), expected) for name, run in runs.items()}
    matrix = torch.randn(MATRIX, MATRIX, device=device)
    runs["matrix product"] = lambda: matrix @ matrix
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.n_repeats):
        for name, run in runs.items():
            times[name].append(records.seconds(run, device))
            print(f"{name}: {times[name][-1]:.3f} s", file=sys.stderr)

    median = {name: statistics.median(values) for name, values in times.items()}
    limit = 2 * MATRIX**3 / median["matrix product"]
    result, figures = {}, {}
    for name in ("baseline", *args.precisions):
        ratio, speed = median["baseline"] / median[name], flops / median[name]
        result[name] = {"seconds": times[name], "ratio": ratio, "GFLOP_s": speed / 1e9}
        result[name]["mean_difference"] = errors[name]
        figures[name] = (
            f"{records.median_and_spread(times[name], 's')}, **{ratio:.2f}×**, "
            f"{speed / 1e9:.0f} GFLOP/s, mean difference {errors[name]:.4f} of 255"
        )
    result["matrix product"] = {"GFLOP_s": limit / 1e9}
    figures["float32 matrix product"] = f"{limit / 1e9:.0f} GFLOP/s"
    print(json.dumps(result))
    if not args.no_record:
        records.append(device, figures)


def make_vqgan(args: argparse.Namespace) -> VQGAN:
    """Build a VQGAN with random weights and batch norm statistics."""
    flags = {
        "n_codes": args.n_codes, "n_hiddens": args.n_hiddens, "downsample": args.downsample,
        "embedding_dim": args.embedding_dim, "norm_type": "batch",
        "resolution": args.latent_shape[1] * args.downsample[1],
    }  # fmt: skip
    return VQGAN(flags, for_training=False).eval().requires_grad_(False)


@torch.no_grad()
def plain(vqgan: VQGAN, codes: Tensor) -> Tensor:
    """Decode as the model's own forward does."""
    return vqgan.decode(codes)


def mean_difference(video: Tensor, expected: Tensor) -> float:
    """Mean absolute difference of frames from expected ones, uint8, in steps of 1/255."""
    return float((to_uint8(video.float()).float() - expected.float()).abs().mean())


if __name__ == "__main__":
    main()
