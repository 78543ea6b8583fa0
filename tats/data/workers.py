"""The processes that read clips, and signals."""

from __future__ import annotations

import os
import signal
import threading


def leave_signals_alone(worker: int) -> None:
    """Let signals that reach all processes of a run, as Ctrl-C does, pass by this one.

    The training process needs clips until its step is done. It ends this process itself, with
    SIGTERM, so that signal alone is still obeyed where it comes from there.

    Args:
        worker: number of the data-loading process; a ``worker_init_fn`` is given it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(128 + signal.SIGTERM)
