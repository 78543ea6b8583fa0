#!/usr/bin/env python
"""Lay out the Sky Time-lapse frames for ``--image_folder``, by links to the clips' folders.

    python scripts/prepare_sky_timelapse.py --frames sky_timelapse --out data/sky

``--frames`` is the unpacked release: ``sky_train/`` and ``sky_test/`` with a folder of frames for
every clip, at any depth. Makes ``OUT/{train,test}/CLIP``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from preparing import Account, existing_folder, new_parser, with_progress

from tats.data.frame_folders import IMAGE_SUFFIXES, frame_number
from tats.errors import UserError, one_line_errors

SPLITS = {"train": ("sky_train", "train"), "test": ("sky_test", "test")}


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = new_parser("Lay out the Sky Time-lapse frames, one folder a clip.")
    parser.add_argument("--frames", type=Path, required=True, help="folder of sky_train, sky_test")
    parser.add_argument(
        "--min_frames", type=int, default=16, help="[frames] shorter clips are left out"
    )
    return parser


def split_folder(root: Path, split: str) -> Path:
    """Find a split's folder.

    Raises:
        UserError: it is not there.
    """
    for name in SPLITS[split]:
        if (root / name).is_dir():
            return root / name
    raise UserError(f"--frames {root} has no {SPLITS[split][0]}/; expected the unpacked release")


def clip_folders(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """List the folders that hold images, with these."""
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = [Path(parent, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
        if images:
            yield Path(parent), images


def usable(folder: Path, images: Sequence[Path], min_frames: int, account: Account) -> bool:
    """Say whether a folder gives a clip, and count it if not."""
    try:
        numbers = {frame_number(image) for image in images}
    except UserError:
        account.skip("frames without a number after the last _", folder)
        return False
    if len(numbers) < len(images):
        account.skip("frames of the same number", folder)
    elif len(images) < min_frames:
        account.skip(f"shorter than {min_frames} frames", folder)
    else:
        return True
    return False


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Link the clips and print one line of JSON about it."""
    args = build_parser().parse_args(argv)
    root = existing_folder(args.frames, "frames", "the unpacked release")
    folders = {split: split_folder(root, split) for split in SPLITS}
    account = Account(dry_run=args.dry_run)
    counts = dict.fromkeys(SPLITS, 0)
    for split, top in folders.items():
        for folder, images in with_progress(clip_folders(top), "clip"):
            if usable(folder, images, args.min_frames, account):
                name = "-".join(folder.relative_to(top).parts) or top.name
                account.link(folder, args.out / split / name)
                counts[split] += 1
    if not sum(counts.values()):
        raise UserError(f"--frames {root} has no folder of {args.min_frames} frames or more")
    account.report(data_path=str(args.out), **{f"{k}_clips": n for k, n in counts.items()})


if __name__ == "__main__":
    main()
