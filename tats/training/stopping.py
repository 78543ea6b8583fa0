"""Stopping by a signal: the step under way is finished, its state written, and one line says so."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

# Ctrl-C; what `kill` and the end of a job send; what SLURM sends ahead of a job's end if asked.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
Save = Callable[[pl.Trainer], Path]


class Stopped(SystemExit):
    """Training ended by a signal; its exit code is the shell's for that signal."""

    def __init__(self, signum: int, report: str) -> None:
        super().__init__(128 + signum)
        self.report = report


class StopOnSignal(Callback):
    """Finish the step under way when a signal comes, write its state, and stop.

    Lightning's handlers, which training starts with, leave nothing on Ctrl-C, exit as if all were
    well on SIGTERM, and write a file of their own on SLURM's signal. These take their place and
    only note the signal, so a second one changes nothing.

    Args:
        save: writes the state and says where; None where no checkpoints are wanted.
        requeue: on SLURM's signal, put the job back into the queue; for a command that goes on by
            itself.
    """

    def __init__(self, save: Save | None, *, requeue: bool) -> None:
        self._save = save
        self._requeue = requeue
        self._signum = 0
        self._process = os.getpid()
        self._speaks = True
        self._started = False
        self._step = 0  # steps that are complete; behind the trainer's while one is under way

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals before anything takes long."""
        self._take_signals(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals; from the first step on there is a state to write."""
        self._take_signals(trainer)
        self._started, self._step = True, trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop where a step ends, which with accumulated gradients is not after every batch."""
        complete = trainer.global_step != self._step
        signum = agreed(trainer, self._signum)
        if complete:
            self._step = trainer.global_step
        if signum and complete:
            self._stop(trainer, signum)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop within validation, which may be long; resuming passes over what is left of it."""
        if not trainer.sanity_checking and (signum := agreed(trainer, self._signum)):
            self._stop(trainer, signum)

    def _take_signals(self, trainer: pl.Trainer) -> None:
        self._process, self._speaks = os.getpid(), trainer.is_global_zero
        # The Trainer puts back what was there before it when it ends.
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data-loading process, forked with this handler
        name = signal.Signals(signum).name
        if not self._started:
            raise Stopped(signum, f"stopped by {name} before the first step; nothing was written")
        if not self._signum and self._speaks:
            os.write(2, f"\n{name}: stopping after this step\n".encode())  # print is not for here
        self._signum = self._signum or signum

    def _stop(self, trainer: pl.Trainer, signum: int) -> None:
        name, step = signal.Signals(signum).name, trainer.global_step
        if self._save is None:
            raise Stopped(signum, f"stopped by {name} after step {step}; nothing was written")
        path = self._save(trainer)
        report = f"stopped by {name} after step {step}; {path} holds it"
        if signum == signal.SIGUSR1 and self._requeue and trainer.is_global_zero:
            report += requeue_job()
        report += ": go on with the same command and --resume_from_checkpoint last"
        raise Stopped(signum, report)


def agreed(trainer: pl.Trainer, value: int) -> int:
    """Give the largest of all processes' values, so that all of them do the same."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return int(tensor)


def requeue_job() -> str:
    """Ask SLURM to start this job again.

    Returns:
        What became of it, to end a report with; nothing outside SLURM.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if not job:
        return ""
    command: Sequence[str] = ("scontrol", "requeue", job)
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return f"; `{shlex.join(command)}` failed"
    return f"; SLURM starts job {job} again"


def report_stop(stopped: Stopped, trainer: pl.Trainer) -> None:
    """Say on stderr, once for all processes, that and how training was stopped."""
    if trainer.is_global_zero:
        print(f"{Path(sys.argv[0]).name}: {stopped.report}", file=sys.stderr, flush=True)
