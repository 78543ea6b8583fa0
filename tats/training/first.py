"""Work that the first of a machine's processes does for the others."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tats.paths import cache_dir

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.2
SECONDS_BETWEEN_MESSAGES = 60.0


@contextmanager
def first_alone(path: str | Path, doing: str) -> Iterator[None]:
    """Run the block at once in one process, and in the others when that one has left it.

    The first process holds a lock on a file of the cache, which the system takes back from a
    process that ends in whatever way. So nobody waits for one that died.

    Args:
        path: what the block works on; blocks for other paths do not wait.
        doing: what the others wait for, such as "indexing clips/".
    """
    file = _lock_file(path)
    if file is None:
        yield
        return
    try:
        if not _lock(file, shared=False):
            _wait_for(file, doing)
        yield
    finally:
        os.close(file)  # gives the lock back


def _lock_file(path: str | Path) -> int | None:
    """Open the file to lock; None where there is no place or way to lock."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    file = cache_dir() / "locks" / f"{digest[:24]}.lock"
    try:
        import fcntl  # noqa: F401

        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError) as error:
        log.info("processes do not wait for each other here: %s", error)
        return None


def _lock(file: int, *, shared: bool) -> bool:
    """Try to lock; a file system without locks counts as locked."""
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.info("processes do not wait for each other here: %s", error)
    return True


def _wait_for(file: int, doing: str) -> None:
    import fcntl

    next_message = time.monotonic()
    while not _lock(file, shared=True):
        if time.monotonic() >= next_message:
            log.warning("waiting for another process, which is %s", doing)
            next_message = time.monotonic() + SECONDS_BETWEEN_MESSAGES
        time.sleep(SECONDS_BETWEEN_TRIES)
    fcntl.flock(file, fcntl.LOCK_UN)  # whoever comes later is not to wait for this one
