#!/usr/bin/env python
"""Divide UCF-101 into training and test videos as an official list says, by links.

    python scripts/prepare_ucf101.py --videos UCF-101 --lists ucfTrainTestlist --out data/ucf101

``--videos`` is the unpacked UCF101.rar (a folder per class), ``--lists`` the unpacked
UCF101TrainTestSplits-RecognitionTask.zip. Makes ``OUT/{train,test}/CLASS/v_….avi``; list 01, which
the published models were trained on, has 9,537 training and 3,783 test videos.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from preparing import Account, existing_folder, new_parser, with_progress

from tats.errors import UserError, one_line_errors

SPLITS = ("train", "test")


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = new_parser("Divide UCF-101 into training and test videos by an official list.")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the class folders")
    parser.add_argument("--lists", type=Path, required=True, help="folder of trainlist01.txt …")
    parser.add_argument("--list", choices=("01", "02", "03"), default="01", help="official list")
    return parser


def read_list(path: Path) -> list[PurePosixPath]:
    """Read ``CLASS/v_….avi`` lines; training lists have the class's number after it.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--lists: {path} cannot be read ({error}); expected the official lists"
        ) from error
    names = [PurePosixPath(words[0]) for words in lines if words]
    for name in names:
        if len(name.parts) != 2 or ".." in name.parts:
            raise UserError(f"--lists: {path} has the line {str(name)!r}; expected CLASS/video.avi")
    return names


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Link the videos and print one line of JSON about it."""
    args = build_parser().parse_args(argv)
    videos = existing_folder(args.videos, "videos", "the unpacked UCF-101")
    lists = existing_folder(args.lists, "lists", "the unpacked official lists")
    listed = {split: read_list(lists / f"{split}list{args.list}.txt") for split in SPLITS}
    account = Account(dry_run=args.dry_run)
    for split in SPLITS:
        for name in with_progress(listed[split], "video"):
            account.link(videos / name, args.out / split / name)
    counts = {f"{split}_listed": len(names) for split, names in listed.items()}
    account.report(data_path=str(args.out), list=args.list, **counts)


if __name__ == "__main__":
    main()
