"""Time the search for the nearest codes, and what is counted of them, against the published way.

The published one keeps the distances of all rows to all codes and a one-hot matrix of the same
size, whose sum and product are the counts and sums that the codes learn from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence

import records
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tats.errors import UserError, one_line_errors
from tats.models.codebook import Codebook

Found = tuple[Int[Tensor, " n"], Float[Tensor, " n_codes"], Float[Tensor, "n_codes D"]]


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--n_rows", type=int, default=4096, help="features of a batch")
    add("--n_codes", type=int, default=16384)
    add("--embedding_dim", type=int, default=256)
    add("--n_repeats", type=int, default=7, help="timed runs of each, taken in turn")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--no_record", action="store_true", help="do not append to RECORDS.md")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Check, weigh, time and record."""
    args = build_parser().parse_args(argv)
    if args.n_repeats < 1:
        raise UserError(f"--n_repeats got {args.n_repeats}; expected at least 1")
    device = torch.device(args.device)
    torch.manual_seed(0)
    codebook = Codebook(n_codes=args.n_codes, embedding_dim=args.embedding_dim).to(device)
    rows = torch.randn(args.n_rows, args.embedding_dim, device=device)
    works: dict[str, Callable[[], object]] = {
        "baseline": lambda: as_published(codebook.embeddings, rows),
        "ours": lambda: ours(codebook, rows),
        "ours, codes alone": lambda: codebook.nearest(rows),
    }
    same = (as_published(codebook.embeddings, rows)[0] == codebook.nearest(rows)).float().mean()
    peaks: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in works}
    for name, work in works.items():
        before = records.begin_peak(device)
        work()
        peaks[name] = records.peak_since(before, device)
    for _ in range(args.n_repeats):
        for name, work in works.items():
            times[name].append(records.seconds(work, device))
            print(f"{name}: {times[name][-1]:.3f} s", file=sys.stderr)
    result: dict[str, object] = {"equal_codes": float(same)}
    figures = {}
    for name, values in times.items():
        ratio = statistics.median(times["baseline"]) / statistics.median(values)
        result[name] = {"seconds": values, "ratio": ratio, "peak_bytes": peaks[name]}
        figures[name] = (
            f"{records.median_and_spread(values, 's', 3)}, **{ratio:.2f}×**, "
            f"peak +{peaks[name] / 1e6:.0f} MB"
        )
    figures["codes equal to the baseline's"] = f"{float(same):.2%}"
    print(json.dumps(result))
    if not args.no_record:
        records.append(device, figures)


def as_published(embeddings: Float[Tensor, "n_codes D"], rows: Float[Tensor, "n D"]) -> Found:
    """Codes, counts and sums by whole matrices."""
    distances = (
        rows.square().sum(dim=1, keepdim=True)
        - 2 * rows @ embeddings.t()
        + embeddings.t().square().sum(dim=0, keepdim=True)
    )
    codes = distances.argmin(dim=1)
    one_hot = F.one_hot(codes, len(embeddings)).type_as(rows)
    return codes, one_hot.sum(dim=0), (rows.t() @ one_hot).t()


def ours(codebook: Codebook, rows: Float[Tensor, "n D"]) -> Found:
    """The same as the codebook finds and counts them in training."""
    codes = codebook.nearest(rows)
    counts = torch.zeros_like(codebook.N).index_add_(0, codes, torch.ones_like(rows[:, 0]))
    return codes, counts, torch.zeros_like(codebook.z_avg).index_add_(0, codes, rows)


if __name__ == "__main__":
    main()
