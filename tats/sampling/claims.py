"""Work that several processes, on any machines, share through a folder, without talking.

A process that takes part keeps a file ``worker-….json`` there and touches it every few
seconds. It claims a piece of work by a file that only one process can create, which holds the name
of its worker. The claim counts while the worker lives; one of a dead worker is taken over:

    worker-4f1c….json     {"host": …, "pid": …}, renewed every BEAT_SECONDS
    sample_00003.claim    worker-4f1c….json

A worker is dead when its process is gone, as far as this machine can tell, or when its file has
not been renewed for DEAD_SECONDS by the file system's own clock. Two processes that take a claim
over at once may both end up working; that must be harmless, and is, since samples do not depend on
who makes them and files are written whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tats.errors import UserError
from tats.paths import atomic_path

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0  # many beats: a network file system may show a time late
STUCK_SECONDS = 3600.0  # without progress, the worker stops renewing its file
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 2.0  # shorter waits are not worth mentioning
NOTICE_SECONDS = 10.0
_CLAIM = ".claim"
_LOCK = "lock"


class Claims:
    """This process's part in the work of a folder, for the length of a ``with``.

    Args:
        folder: where the files are; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worker = f"worker-{uuid.uuid4().hex}.json"
        self._held: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._last_progress = time.monotonic()

    def __enter__(self) -> Claims:
        self._register()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        for name in list(self._held):
            self.give_back(name)
        with contextlib.suppress(OSError):
            (self.folder / self.worker).unlink(missing_ok=True)
            self.folder.rmdir()  # if nothing is left in it

    def take(self, name: str) -> bool:
        """Claim a piece of work, unless a living process has it.

        Args:
            name: of the work, the same in all processes.

        Returns:
            Whether it is this process's now.
        """
        self._register()
        path = self.folder / f"{name}{_CLAIM}"
        for _ in range(2):  # the second time after a dead worker's claim was removed
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if self._is_live(path):
                    return False
                _remove(path)
                continue
            except FileNotFoundError:  # another process finished the run and removed the folder
                self._register()
                continue
            with os.fdopen(descriptor, "w") as file:
                self._register()  # before others can ask whether the worker lives
                file.write(self.worker)
            self._held.add(name)
            return True
        return False

    def give_back(self, name: str) -> None:
        """End a claim of this process."""
        path = self.folder / f"{name}{_CLAIM}"
        self._held.discard(name)
        with contextlib.suppress(OSError):
            if path.read_text() == self.worker:
                path.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that changes the folder as a whole; wait for others, and say so."""
        waiting = Waiting()
        while not self.take(_LOCK):
            waiting.go_on("waiting for another process to write files beside %s", self.folder)
        try:
            yield
        finally:
            self.give_back(_LOCK)

    def others(self) -> int:
        """How many other live processes work here."""
        names = [path.name for path in self.folder.glob("worker-*.json")]
        return sum(self._lives(name) for name in names if name != self.worker)

    def sweep(self) -> None:
        """Remove what dead processes left: half-written files, claims, their workers' files."""
        for path in self.folder.iterdir():
            if path.name in (self.worker, f"{_LOCK}{_CLAIM}"):
                continue
            if path.name.startswith("worker-"):
                is_left = not self._lives(path.name)  # others may have come this moment
            elif path.suffix == _CLAIM:
                is_left = not self._is_live(path)
            else:
                is_left = path.name.startswith(".")
            if is_left:
                path.unlink(missing_ok=True)

    def progress(self) -> None:
        """Note that work goes on: the claims of a process that hangs end after STUCK_SECONDS."""
        self._last_progress = time.monotonic()

    def _register(self) -> None:
        path = self.folder / self.worker
        while not path.exists():
            try:
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps({"host": _host(), "pid": os.getpid()}))
            except UserError as error:
                # A process that finished the run may remove the folder at any moment.
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if time.monotonic() - self._last_progress < STUCK_SECONDS:
                with contextlib.suppress(OSError):  # the folder may be gone: the run is finished
                    os.utime(self.folder / self.worker)

    def _is_live(self, claim: Path) -> bool:
        try:
            with claim.open() as file:
                worker = file.read()
                written = os.fstat(file.fileno()).st_mtime
        except OSError:  # given back meanwhile
            return False
        if not worker:  # its process is about to write its name
            return self._now() - written < DEAD_SECONDS
        return worker == self.worker or self._lives(worker)

    def _lives(self, worker: str) -> bool:
        try:
            # A network file system is sure to give a file's newest time where it is opened.
            with (self.folder / worker).open() as file:
                process = json.load(file)
                renewed = os.fstat(file.fileno()).st_mtime
            if process["host"] == _host() and not _runs(int(process["pid"])):
                return False
        except (OSError, ValueError, KeyError, TypeError):  # it ended
            return False
        return self._now() - renewed < DEAD_SECONDS

    def _now(self) -> float:
        """The file system's clock, which may be another machine's."""
        own = self.folder / self.worker
        try:
            os.utime(own)
            return own.stat().st_mtime
        except OSError:
            return time.time()


class Waiting:
    """Waits that a user sees: a warning after a moment, then one every now and then."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._next_notice = self.began + PATIENCE_SECONDS

    def go_on(self, message: str, *values: object) -> None:
        """Wait a little longer, for what ``message`` says."""
        if time.monotonic() >= self._next_notice:
            log.warning(message, *values)
            self._next_notice = time.monotonic() + NOTICE_SECONDS
        time.sleep(POLL_SECONDS)

    @property
    def seconds(self) -> float:
        """How long the wait has been so far."""
        return time.monotonic() - self.began


def _remove(claim: Path) -> None:
    """Remove a dead worker's claim, if it is still there: of several processes one renames it."""
    aside = claim.with_name(f".{uuid.uuid4().hex}.stale")
    with contextlib.suppress(OSError):
        claim.rename(aside)
        aside.unlink()


def _host() -> str:
    """Name what process numbers belong to: the machine, and the container on it."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
