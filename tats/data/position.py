"""The place of a training run in its data, and Lightning's counts that must agree with it.

The place is one number: the clips that training steps have consumed so far, over all epochs and
processes. Clip ``n_drawn`` is number ``n_drawn % n_clips`` in the order of epoch
``n_drawn // n_clips``; what a loader fetched ahead does not count. Lightning counts batches, and
takes an epoch that ``--max_steps`` cut for a whole one, so its counts follow from the place.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epochs:
    """How epochs are dealt out.

    Args:
        n_clips: clips of an epoch.
        clips_per_batch: clips of one training step's batch over all processes.
        limit: of the batches of an epoch, as the Trainer knows it: a count or a share.
    """

    n_clips: int
    clips_per_batch: int
    limit: int | float = 1.0

    @property
    def n_batches(self) -> int:
        """Batches after which Lightning ends an epoch."""
        n_whole = self.batches_from(0)
        if isinstance(self.limit, int):
            return min(n_whole, self.limit)
        return int(n_whole * self.limit)

    def batches_from(self, first: int) -> int:
        """Count the batches that are left from a clip of an epoch on, without the limit."""
        return -(-(self.n_clips - first) // self.clips_per_batch)

    def batches_before(self, first: int) -> int:
        """Count the batches that are done at a clip of an epoch, so that the rest adds up."""
        return self.batches_from(0) - self.batches_from(first)


def counted_place(trainer: pl.Trainer, epochs: Epochs, start: int = 0) -> int:
    """Work out the place from Lightning's counts.

    Args:
        trainer: in training, about to train or just after it.
        epochs: how its epochs are dealt out.
        start: the place at which it began: the epoch may have been begun in other batches.

    Returns:
        Clips consumed so far.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    epoch = max(progress.ready - 1, 0)  # the one begun last; a cut one counts as processed
    if progress.ready > progress.started:  # batches are still those of the epoch before
        return epoch * epochs.n_clips
    n_done: int = batches.processed
    if n_done >= epochs.n_batches:
        return (epoch + 1) * epochs.n_clips
    start_epoch, first = divmod(start, epochs.n_clips)
    if epoch != start_epoch:
        first = 0
    n_new = n_done - epochs.batches_before(first)
    return epoch * epochs.n_clips + min(first + n_new * epochs.clips_per_batch, epochs.n_clips)


def stored_place(n_drawn: int, n_clips_then: int, epochs: Epochs) -> int:
    """Carry a stored place over to this run: its data may have changed, or its limit.

    Args:
        n_drawn: clips consumed when it was stored.
        n_clips_then: clips that an epoch had.
        epochs: how epochs are dealt out now.
    """
    epoch, first = divmod(n_drawn, n_clips_then)
    if first and n_clips_then != epochs.n_clips:
        log.warning(
            "an epoch had %d training clips and now has %d: epoch %d starts again",
            n_clips_then,
            epochs.n_clips,
            epoch,
        )
        first = 0
    if first and epochs.batches_before(first) >= epochs.n_batches:  # --limit_train_batches
        epoch, first = epoch + 1, 0
    return epoch * epochs.n_clips + first


def continue_at(trainer: pl.Trainer, place: int, epochs: Epochs) -> None:
    """Make Lightning's restored counts go on at a place; where they do, nothing changes.

    Args:
        trainer: resuming, before it has begun.
        place: clips consumed so far.
        epochs: how epochs are dealt out from here on.
    """
    epoch, first = divmod(place, epochs.n_clips)
    if first == 0:
        _begin_epoch(trainer, epoch, epochs.n_batches)
        return
    fit_loop: Any = trainer.fit_loop
    n_done = epochs.batches_before(first)
    batches = fit_loop.epoch_loop.batch_progress
    progress = fit_loop.epoch_progress
    unfinished = progress.current.ready == epoch + 1 and progress.current.processed == epoch
    if unfinished and batches.current.ready == batches.current.processed == n_done:
        return
    for count in (progress.current, progress.total):
        _set(count, epoch + 1)
        count.processed = count.completed = epoch
    _set(batches.total, batches.total.processed)
    _set(batches.current, n_done)
    batches.is_last_batch = False
    fit_loop.restarting = True


def _begin_epoch(trainer: pl.Trainer, epoch: int, n_batches: int) -> None:
    """Let the next epoch begin as if the one before had just ended in this process."""
    fit_loop: Any = trainer.fit_loop
    progress, epoch_loop = fit_loop.epoch_progress, fit_loop.epoch_loop
    if progress.current.processed < progress.current.ready:
        epoch_loop._batches_that_stepped += 1  # the last one, not counted when it was stored
    _set(progress.current, epoch)
    _set(progress.total, epoch)
    _set(epoch_loop.batch_progress.total, epoch_loop.batch_progress.total.processed)
    _set(epoch_loop.batch_progress.current, n_batches)
    fit_loop._restarting = False
    epoch_loop.restarting = False


def _set(count: Any, n: int) -> None:
    """Let one of Lightning's counts say that n were begun and ended."""
    count.ready = count.started = count.processed = count.completed = n
