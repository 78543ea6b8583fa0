"""Where files lie and how they are written: the cache, whole-or-not-at-all writing, checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tats.errors import UserError


def cache_dir() -> Path:
    """Return the folder of fetched weights: ``$TATS_CACHE``, else ``~/.cache/tats``.

    Returns:
        The folder; it may not exist yet.
    """
    named = os.environ.get("TATS_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tats"


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that becomes ``path`` only if the block succeeds.

    Args:
        path: the file to write; missing folders above it are made.

    Yields:
        An empty file in the same folder with the same suffix.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError as error:
            raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> UserError:
    """Say in the user's words that ``path`` cannot be written."""
    reason = error.strerror or type(error).__name__
    return UserError(f"{path} cannot be written ({reason}); choose a folder you can write to")


def file_sha256(file: str | Path) -> str:
    """Return a file's sha256.

    Args:
        file: its path.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{file}: cannot be read ({reason}); expected a file") from None
    return digest.hexdigest()
