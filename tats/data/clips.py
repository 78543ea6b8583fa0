"""What all datasets of clips share: repeatable randomness, unreadable clips, the sampler."""

from __future__ import annotations

import logging
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from tats.data.decoding import DecodeError
from tats.errors import UserError
from tats.randomness import draw, epoch_generator, item_generator

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # clips tried for one item before giving up
MAX_FAILED_SHARE = 0.1  # of the clips read so far; checked once MIN_FAILURES have failed
MIN_FAILURES = 20


class Batch(TypedDict, total=False):
    """What readers return for a clip, each kind of data its own part; batches add the axis B.

    Ranges are those the models see. T, H, W are the frames, rows and columns of ``ClipSpec``.
    """

    # entry: shape, type, range | who reads it
    video: Tensor  # (B, C, T, H, W) float32 in [-0.5, 0.5], one-hot maps 0 or 1 | all models …
    # … with --vtokens (B, t, h, w) int64, codes | the transformer
    label: Tensor  # (B,) int64, number of the class | class-conditional transformers
    text: Tensor  # (B, L) int64, tokens of the caption, then zeros | transformers of captions
    stft: Tensor  # (B, 1, T, 64, 16) float32 in [-1, 1] | STFT-VQGANs, transformers of sounds
    start: Tensor  # (B,) int64, first frame of the window in its video | the sampler of sounds
    cbox: Tensor  # (B, 4) int64, y0 y1 x0 x1 of a crop in cells | --vtokens_pos transformers
    tbox: Tensor  # (B, 2) int64, t0 t1 likewise; no reader here gives it | the same
    video_smap: Tensor  # as video: the map beside it (--smap_cond) | nobody here


class ClipKey(NamedTuple):
    """One draw from a dataset: which item, in which epoch. An int alone means epoch 0."""

    item: int
    epoch: int = 0


class ClipDataset(Dataset[Batch], ABC):
    """Clips whose random choices depend on (seed, epoch, index) alone.

    So a batch is the same whatever the number of workers or processes, and however often the run
    was interrupted.

    Args:
        seed: of all random choices.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self.n_read = 0
        self.n_failed = 0

    @abstractmethod
    def __len__(self) -> int:
        """Count the items of an epoch."""

    @abstractmethod
    def clip(self, index: int, generator: torch.Generator) -> Batch:
        """Read one item.

        Args:
            index: in [0, len).
            generator: source of every random choice.

        Returns:
            The item, under the names of a batch.

        Raises:
            DecodeError: the item cannot be read.
        """

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        """Read the item of an index or ``ClipKey``; another one, drawn at random, if it fails.

        Raises:
            UserError: too many clips cannot be read.
        """
        index, epoch = key if isinstance(key, tuple) else (operator.index(key), 0)
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        generator = item_generator(self.seed, epoch, index)
        for _ in range(MAX_ATTEMPTS):
            self.n_read += 1
            try:
                return self.clip(index, generator)
            except DecodeError as error:
                reason = str(error)
                self._count_failure(reason)
            index = draw(len(self), generator)
        raise UserError(
            f"--data_path: {MAX_ATTEMPTS} clips in a row cannot be read, the last one {reason}; "
            "check the files"
        )

    def _count_failure(self, reason: str) -> None:
        self.n_failed += 1
        if self.n_failed <= 10 or self.n_failed % 100 == 0:
            log.warning("clip skipped (number %d of this process): %s", self.n_failed, reason)
        if self.n_failed >= MIN_FAILURES and self.n_failed > MAX_FAILED_SHARE * self.n_read:
            raise UserError(
                f"--data_path: {self.n_failed} of {self.n_read} clips cannot be read, the last "
                f"one {reason}; check the files"
            )


class LabelledClips(ClipDataset):
    """Clips that belong to classes.

    Args:
        seed: of all random choices.
        class_names: sorted; a label is an index into them.
    """

    def __init__(self, *, seed: int, class_names: Sequence[str]) -> None:
        super().__init__(seed=seed)
        self.class_names = list(class_names)

    @abstractmethod
    def labels(self) -> np.ndarray:
        """Return the label of every item, int64 (len,)."""


class ClipSampler(DistributedSampler[ClipKey]):
    """Draws the clips of an epoch, for this process, in an order that (seed, epoch) fixes.

    Iterated again, it draws the next epoch.

    Args:
        dataset: what is drawn from.
        seed: of the order.
        shuffle: draw in random order.
        fixed: every epoch has the order and the random choices of epoch 0, so that figures of
            different epochs can be compared.
        balanced_labels: int64 (len,); draw every label equally often, with replacement.
        sharded: give every process of a distributed run its own part.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        seed: int,
        shuffle: bool = True,
        fixed: bool = False,
        balanced_labels: np.ndarray | None = None,
        sharded: bool = True,
    ) -> None:
        sharded = sharded and dist.is_available() and dist.is_initialized()
        n_processes, rank = (dist.get_world_size(), dist.get_rank()) if sharded else (1, 0)
        super().__init__(dataset, n_processes, rank, shuffle=shuffle, seed=seed)
        self.fixed = fixed
        self.balanced_labels = balanced_labels
        self._first = 0  # of the clips of the epoch that is drawn next

    def starting_at(self, n_drawn: int) -> ClipSampler:
        """Let the next iteration begin in mid-epoch, and return the sampler.

        Args:
            n_drawn: clips of all epochs and processes that were drawn before.
        """
        assert not self.fixed
        self.epoch, self._first = divmod(n_drawn, len(self.dataset))  # type: ignore[arg-type]
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; Lightning calls this."""
        epoch = 0 if self.fixed else epoch
        if epoch != self.epoch:
            self._first = 0
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[ClipKey]:
        epoch, first = self.epoch, self._first
        # Lightning names the epoch before loaders without workers iterate and after loaders with
        # workers have begun to: neither order may matter.
        self.set_epoch(epoch + 1)
        order = self._order(epoch_generator(self.seed, epoch))
        n_own = -(-(len(order) - first) // self.num_replicas)
        places = np.arange(first + self.rank, first + n_own * self.num_replicas, self.num_replicas)
        own = order[places % len(order)]  # the last processes repeat the first clips
        return (ClipKey(index, epoch) for index in own.tolist())

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        n_clips = len(self.dataset)  # type: ignore[arg-type]
        if self.balanced_labels is not None:
            return _balanced_order(self.balanced_labels, generator)
        return generator.permutation(n_clips) if self.shuffle else np.arange(n_clips)


def _balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    by_label = np.argsort(labels, kind="stable")
    _, first, count = np.unique(labels[by_label], return_index=True, return_counts=True)
    chosen = generator.integers(len(first), size=len(labels))
    return by_label[first[chosen] + generator.integers(count[chosen])]


def check_enough_videos(
    folder: Path, *, n_videos: int, n_unreadable: int, n_short: int, min_frames: int
) -> None:
    """Report the videos that give no clip, and stop where too few are left.

    Args:
        folder: where they lie.
        n_videos: all of them.
        n_unreadable: those that cannot be read.
        n_short: those with fewer than ``min_frames`` frames.
        min_frames: frames a clip needs.

    Raises:
        UserError: no video is left, or too many cannot be read.
    """
    n_left = n_videos - n_unreadable - n_short
    counts = (
        f"{n_videos} videos, {n_unreadable} of them unreadable, {n_short} shorter than a clip of "
        f"{min_frames} frames"
    )
    if n_left <= 0:
        raise UserError(
            f"--data_path: {folder} has no clip ({counts}); check the files or lower "
            "--sequence_length"
        )
    # A few bad files among many are normal; more mean that something else is wrong.
    if n_unreadable > max(3, n_videos // 10) or 2 * n_unreadable > n_videos:
        raise UserError(f"--data_path: {folder} is damaged ({counts}); check or remove the files")
    if n_unreadable or n_short:
        log.warning("%s: %s; these are left out", folder, counts)
