#!/usr/bin/env python
"""Fetch released checkpoints into the cache by name.

    python scripts/download_checkpoints.py --list              # what there is
    python scripts/download_checkpoints.py ucf101-base         # and the VQGAN it needs
    python scripts/download_checkpoints.py sky-ar sky-interp

Afterwards, every flag that takes a checkpoint takes the name. What is there already is left alone;
an interrupted download continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence

from tats.errors import UserError, one_line_errors
from tats.paths import cache_dir
from tats.weights.catalogue import RELEASED, check_sha256, closest_names, fetch, released_name


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Fetch released checkpoints into $TATS_CACHE (default ~/.cache/tats)."
    )
    parser.add_argument("names", nargs="*", help="such as ucf101-base; all = every one of them")
    parser.add_argument("--list", action="store_true", help="show the names and fetch nothing")
    parser.add_argument(
        "--alone", action="store_true", help="do not fetch the VQGAN(s) of a transformer with it"
    )
    return parser


def table() -> str:
    """Show every released checkpoint: name, kind, needs, presence, source."""
    rows = [("name", "kind", "needs", "here", "source")]
    for name, released in RELEASED.items():
        here = "yes" if released.path.is_file() else "-"
        needs = " ".join(filter(None, (released.vqgan, released.stft_vqgan))) or "-"
        rows.append((name, released.kind, needs, here, released.url))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def wanted_names(names: Sequence[str], *, alone: bool) -> list[str]:
    """Resolve what was asked for, each once, VQGANs before the transformers on them.

    Raises:
        UserError: a name is no released checkpoint's.
    """
    wanted: list[str] = []
    for name in RELEASED if "all" in names else names:
        key = released_name(name)
        if key is None:
            raise UserError(
                f"got {name!r}, which is no released checkpoint; expected a name"
                f"{closest_names(name)}: --list shows all"
            )
        needed = () if alone else (RELEASED[key].vqgan, RELEASED[key].stft_vqgan)
        wanted += [*filter(None, needed), key]
    return list(dict.fromkeys(wanted))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is asked for; one failure does not keep the others from being fetched."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.list or not args.names:
        print(table())
        return
    report, failures = {}, []
    for name in wanted_names(args.names, alone=args.alone):
        here = RELEASED[name].path.is_file()
        try:
            path = RELEASED[name].path if here else fetch(name)
            report[name] = {
                "path": str(path),
                "bytes": path.stat().st_size,
                "sha256": check_sha256(name, path),
                "fetched": not here,
            }
        except UserError as error:
            failures.append(str(error))
    print(json.dumps({"cache": str(cache_dir()), **report}))
    if failures:
        raise UserError("; ".join(failures))


if __name__ == "__main__":
    main()
