#!/usr/bin/env python
"""Lay out MUGEN's games and annotations so that the readers find them, by links.

    python scripts/prepare_mugen.py --source coinrun_dataset_jsons --out data/mugen

``--source`` is the unpacked coinrun_dataset_jsons.zip: ``release/{train,val,test}.json`` and the
games it names. Makes ``OUT/coinrun/{train,val,test}.json``, without the clips whose game is not
there, and links the games beside it. The picture files of the games are Kenney's: ``--assets``
checks a folder of them, for ``--coinrun_assets``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from preparing import Account, existing_folder, new_parser, with_progress

from tats.data.mugen.fields import Fields
from tats.errors import UserError, one_line_errors
from tats.paths import atomic_path

SPLITS = ("train", "val", "test")
INDEX_FOLDERS = ("release", ".", "coinrun_dataset_jsons/release")
FOLDER = "coinrun"  # by this word in its name the readers know MUGEN's layout
ASSET_FOLDERS = ("kenney", "kenneyLarge")


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = new_parser("Lay out MUGEN's games and annotations.")
    parser.add_argument("--source", type=Path, required=True, help="unpacked coinrun_dataset_jsons")
    parser.add_argument("--assets", type=Path, help="folder of Kenney's sprites, to be checked")
    return parser


def find_index(source: Path, split: str) -> Path | None:
    """Find the index of a split in the released archive."""
    candidates = (source / folder / f"{split}.json" for folder in INDEX_FOLDERS)
    return next((path for path in candidates if path.is_file()), None)


def find_games(source: Path, names: Sequence[str]) -> dict[str, Path]:
    """Find the games an index names, by the ends of their paths.

    Its paths begin at a folder of the machine the index was made on.
    """
    by_name: dict[str, list[Path]] = {}
    for path in source.rglob("*.json"):
        by_name.setdefault(path.name, []).append(path)
    found = {}
    for name in names:
        wanted = PurePosixPath(name)
        for path in by_name.get(wanted.name, []):
            tail = path.relative_to(source).parts[-len(wanted.parts) :]
            if tail == wanted.parts or len(by_name[wanted.name]) == 1:
                found[name] = path
                break
    return found


def prepare(index_file: Path, source: Path, out: Path, account: Account) -> int:
    """Write one index and link its games; returns the number of its clips."""
    index = Fields.load(index_file, kind="index file")
    names = [clip.object("video").text("json_file") for clip in index.objects("data")]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"index file {index_file}: json_file {name!r} leads out of the data")
    games = find_games(source, names)
    folder = out / FOLDER
    kept = []
    record: dict[str, Any] = json.loads(index_file.read_text(encoding="utf-8"))
    for name, clip in with_progress(list(zip(names, record["data"], strict=True)), "clip"):
        if name not in games:
            account.skip("game not there", name)
            continue
        account.link(games[name], folder / "games" / name)
        kept.append(clip)
    record["data"] = kept
    record.setdefault("metadata", {})["data_folder"] = "games"
    text = json.dumps(record) + "\n"
    target = folder / index_file.name
    if kept and not account.dry_run and not (target.is_file() and target.read_text() == text):
        with atomic_path(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return len(kept)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Lay the data set out and print one line of JSON about it."""
    args = build_parser().parse_args(argv)
    source = existing_folder(args.source, "source", "the unpacked coinrun_dataset_jsons")
    if args.assets:
        assets = existing_folder(args.assets, "assets", "Kenney's sprites")
        for name in ASSET_FOLDERS:
            existing_folder(assets / name, "assets", f"a folder {name} of Kenney's sprites")
    indices = {split: find_index(source, split) for split in SPLITS}
    if indices["train"] is None:
        raise UserError(f"--source {source} has no release/train.json; expected MUGEN's index")
    account = Account(dry_run=args.dry_run)
    counts = {
        f"{split}_clips": prepare(path, source, args.out, account)
        for split, path in indices.items()
        if path is not None
    }
    account.report(data_path=str(args.out / FOLDER), **counts)


if __name__ == "__main__":
    main()
