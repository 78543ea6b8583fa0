"""What the prepare scripts share: links instead of copies, and an account of what was done."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from tats.errors import UserError

Item = TypeVar("Item")
N_NAMED = 5  # files named for each reason they were skipped


def new_parser(description: str) -> argparse.ArgumentParser:
    """Start a prepare script's parser, with the flags they all have."""
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make the data set in")
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be done, and write nothing"
    )
    return parser


class Account:
    """Does the work of a prepare script file by file, and counts it.

    Args:
        dry_run: count alone.
    """

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.n_new = 0
        self.n_there = 0
        self.skipped: dict[str, list[str]] = {}

    def skip(self, reason: str, name: object) -> None:
        """Count a file that gives nothing."""
        self.skipped.setdefault(reason, []).append(str(name))

    def link(self, source: Path, target: Path) -> None:
        """Make ``target`` a link to ``source``.

        Raises:
            UserError: something else is there already, or the folder cannot be written.
        """
        if not source.exists():
            self.skip("missing", source)
            return
        wanted = source.resolve()
        if target.is_symlink() and target.resolve() == wanted:
            self.n_there += 1
            return
        if os.path.lexists(target):
            raise UserError(
                f"--out: {target} is there already and is no link to {wanted}; delete it or choose "
                "another folder"
            )
        self.n_new += 1
        if self.dry_run:
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(wanted, target_is_directory=wanted.is_dir())
        except OSError as error:
            raise UserError(f"--out: {target} cannot be made ({error.strerror})") from error

    def make(self, target: Path, write: Callable[[], None]) -> bool:
        """Write a file that is not there yet.

        Args:
            target: the file.
            write: writes it, whole or not at all.

        Returns:
            Whether it was there.
        """
        if target.exists():
            self.n_there += 1
            return True
        if not self.dry_run:
            write()
        self.n_new += 1
        return False

    def report(self, **facts: object) -> None:
        """Print what was done as one line of JSON."""
        skipped = {
            reason: {"count": len(names), "such_as": names[:N_NAMED]}
            for reason, names in self.skipped.items()
        }
        counts = {"new": self.n_new, "already_there": self.n_there, "skipped": skipped}
        dry = {"dry_run": True} if self.dry_run else {}
        print(json.dumps({**facts, **counts, **dry}))


def with_progress(items: Iterable[Item], unit: str) -> Iterator[Item]:
    """Draw a bar over the items."""
    return iter(tqdm(list(items), desc="preparing", unit=unit))


def existing_folder(path: Path, flag: str, what: str) -> Path:
    """Return a folder a flag names.

    Raises:
        UserError: it is not there.
    """
    path = path.expanduser()
    if not path.is_dir():
        raise UserError(f"--{flag} got {path}, which is no folder; expected {what}")
    return path
