"""The processes that read clips, and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_IGNORED = {signal.SIGINT, signal.SIGUSR1}


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back while processes start, which inherit this: until they can let them pass.

    Those that reach this process meanwhile are delivered to it at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_IGNORED, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_alone(worker: int) -> None:
    """Let signals that reach all processes of a run, as Ctrl-C does, pass by this one.

    The training process needs clips until its step is done. It ends this process itself, with
    SIGTERM, so that signal alone is still obeyed where it comes from there.

    Args:
        worker: number of the data-loading process; a ``worker_init_fn`` is given it.
    """
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(128 + signal.SIGTERM)
