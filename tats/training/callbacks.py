"""What happens beside training: checkpoints, pictures of reconstructions, throughput."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from tats.models.vqgan import VQGAN
from tats.paths import atomic_path
from tats.training.stopping import agreed
from tats.video_io import to_uint8, video_grid, write_video

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
PICTURE_FPS = 8  # frames a second of a reconstruction video: slow enough to compare by eye
LAST_CHECKPOINT = "last.ckpt"
STEPS_BETWEEN_LOOKS = 10  # at the clock, where several processes train: they must agree


class KeptCheckpoints(Checkpoint):
    """Keep a checkpoint every so many steps, and let ``last.ckpt`` follow training.

    Args:
        periods: in steps; a step that is a multiple of any of them is kept.
        minutes: how often ``last.ckpt`` is written; 0 for when training ends alone.
        n_kept: how many of those kept every so many steps stay, the newest; None for all.

    Attributes:
        is_sound: whether the present state may take the place of an older one by the clock.
    """

    is_sound: Callable[[], bool] = staticmethod(lambda: True)

    def __init__(
        self, periods: Sequence[int], *, minutes: float = 30.0, n_kept: int | None = None
    ) -> None:
        self.periods = tuple(periods)
        self.minutes = minutes
        self.n_kept = n_kept
        self._kept: deque[Path] = deque()  # of this process's run: no other file is deleted
        self._folder = Path()
        self._step = 0  # the last complete one that was looked at
        self._written_at = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree with the other processes on the folder."""
        folder = os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        self._folder = Path(trainer.strategy.broadcast(folder))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from the step training starts at: a resumed run has kept that one already."""
        self._step = trainer.global_step
        self._written_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Keep this step's checkpoint if its turn has come, and ``last.ckpt`` if its time has."""
        step = trainer.global_step  # stays the same while gradients are accumulated
        if step == self._step:
            return
        self._step = step
        if any(step % period == 0 for period in self.periods):
            path = self._folder / f"epoch={trainer.current_epoch}-step={step}.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            self._kept.append(path)
            self._delete_old(trainer)
        if self._is_time(trainer):
            self.save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the final state."""
        self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> Path:
        """Write ``last.ckpt``, in place of the one before.

        Args:
            trainer: at the end of a step, in every process.

        Returns:
            Its path.
        """
        path = self._folder / LAST_CHECKPOINT
        trainer.save_checkpoint(path, weights_only=False)
        self._written_at = time.monotonic()
        return path

    def leave_last(self, trainer: pl.Trainer) -> Path:
        """Write ``last.ckpt`` unless there is one, and give its path."""
        path = self._folder / LAST_CHECKPOINT
        if not agreed(trainer, int(trainer.is_global_zero and path.exists())):
            self.save_last(trainer)
        return path

    def _delete_old(self, trainer: pl.Trainer) -> None:
        while self.n_kept is not None and len(self._kept) > self.n_kept:
            oldest = self._kept.popleft()
            if trainer.is_global_zero:
                oldest.unlink(missing_ok=True)

    def _is_time(self, trainer: pl.Trainer) -> bool:
        """Whether ``last.ckpt`` is old, by the first process's clock."""
        if not self.minutes or (trainer.world_size > 1 and self._step % STEPS_BETWEEN_LOOKS):
            return False
        old = time.monotonic() - self._written_at >= 60 * self.minutes
        return bool(agreed(trainer, int(old and trainer.is_global_zero))) and self.is_sound()


class AskedLearningRate(Callback):
    """Train at the rate the flags ask for, whatever rate a checkpoint was written at."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the rates that came with the optimisers' states, and say so."""
        asked = getattr(pl_module, "learning_rate", None)
        groups = [group for one in trainer.optimizers for group in one.param_groups]
        stored = sorted({group["lr"] for group in groups} - {asked})
        if not isinstance(asked, float) or not stored:
            return
        for group in groups:
            group["lr"] = asked
        rates = " and ".join(f"{rate:g}" for rate in stored)
        rank_zero_info(
            f"the checkpoint's learning rate {rates} is replaced by {asked:g}, which"
            " the flags ask for"
        )


class StepAxis(Callback):
    """Draw all curves over steps that are done, which Lightning draws over batches."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Place this batch's figures."""
        self._place(trainer, pl_module, on_step=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Place the held-out figures."""
        self._place(trainer, pl_module, on_step=False)

    def _place(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, on_step: bool) -> None:
        # The loggers take a figure called "step" for the place of the others.
        place = {"step": float(trainer.global_step), "epoch": float(trainer.current_epoch)}
        held_out = not on_step
        pl_module.log_dict(
            place, on_step=on_step, on_epoch=held_out, sync_dist=held_out, batch_size=1
        )


class Throughput(Callback):
    """Log clips and latent tokens per second over all processes.

    Args:
        window: batches the figures are averaged over.
    """

    def __init__(self, window: int = 50) -> None:
        self._clips: deque[int] = deque(maxlen=window)
        self._seconds: deque[float] = deque(maxlen=window)
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; waiting for the first batch counts."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out of the time."""
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Add this batch to the average."""
        now = time.perf_counter()
        self._seconds.append(now - self._mark)
        self._mark = now
        self._clips.append(_batch_size(batch) * trainer.world_size)
        rate = sum(self._clips) / sum(self._seconds)
        tokens_per_clip = math.prod(cast(tuple[int, int, int], pl_module.latent_shape))
        pl_module.log_dict(
            {
                "throughput/clips_per_second": rate,
                "throughput/tokens_per_second": rate * tokens_per_clip,
            },
            batch_size=_batch_size(batch),
        )


class ReconstructionPictures(Callback):
    """Show clips above their reconstructions, as pictures and as videos, in the log's folder.

    Both come at batches 1, 2, 4, 8 … early on and then at regular intervals, for training and
    for held-out clips; they are also sent to TensorBoard (pictures only).

    Args:
        image_every: batches between two pictures.
        video_every: batches between two videos.
        n_clips: clips shown.
    """

    def __init__(
        self, *, image_every: int = 750, video_every: int = 1500, n_clips: int = 8
    ) -> None:
        self.image_every = image_every
        self.video_every = video_every
        self.n_clips = n_clips
        self._n_held_out_batches = 0
        self._folder: Path | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the log's folder, which all processes must ask for together."""
        self._folder = Path(trainer.log_dir) if trainer.logger and trainer.log_dir else None

    def state_dict(self) -> dict[str, Any]:
        """Remember how many held-out batches were seen."""
        return {"n_held_out_batches": self._n_held_out_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting held-out batches."""
        self._n_held_out_batches = state_dict["n_held_out_batches"]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Show training clips."""
        n_batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._show(trainer, pl_module, batch, "train", n_batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show held-out clips."""
        if not trainer.sanity_checking:
            self._n_held_out_batches += 1
            self._show(trainer, pl_module, batch, "val", self._n_held_out_batches)

    def _show(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Batch,
        split: str,
        n_batches: int,
    ) -> None:
        image, video = _due(n_batches, self.image_every), _due(n_batches, self.video_every)
        if not (image or video) or not trainer.is_global_zero or self._folder is None:
            return
        assert isinstance(pl_module, VQGAN)
        clips = compare_with_reconstruction(pl_module, batch, self.n_clips)  # (2n, T, H, W, 3)
        name = f"epoch={trainer.current_epoch}-step={trainer.global_step}-batch={n_batches}"
        if image:
            middle = clips.shape[1] // 2
            grid = video_grid(clips[:, middle : middle + 1], nrow=2)[0]
            with atomic_path(self._folder / "images" / split / f"{name}.png") as path:
                Image.fromarray(grid).save(path)
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_image(
                    f"{split}/reconstruction", grid, trainer.global_step, dataformats="HWC"
                )
        if video:
            path = self._folder / "videos" / split / f"{name}.mp4"
            write_video(path, video_grid(clips, nrow=2), PICTURE_FPS)


def _due(n_batches: int, every: int) -> bool:
    """Say whether the n-th batch is shown: 1, 2, 4 … below ``every``, then its multiples."""
    is_power_of_two = n_batches & (n_batches - 1) == 0
    return n_batches % every == 0 or (n_batches < every and is_power_of_two)


@torch.no_grad()
def compare_with_reconstruction(vqgan: VQGAN, batch: Batch, n_clips: int) -> Tensor:
    """Put a batch's first clips before their reconstructions.

    Args:
        vqgan: its mode is the same afterwards.
        batch: one batch of its data.
        n_clips: most clips to take.

    Returns:
        uint8 (2n, T, H, W, 3) on the CPU: n clips, then their n reconstructions.
    """
    is_sound = vqgan.clip.kind == "spectrogram"
    video = batch["stft" if is_sound else "video"][:n_clips]
    was_training = vqgan.training
    vqgan.eval()  # else batch norm would learn from being looked at
    reconstruction = vqgan.reconstruct(video)
    vqgan.train(was_training)
    shown = torch.cat([video, reconstruction.to(video)])
    if is_sound:  # spectrograms fill [-1, 1]
        shown = shown / 2
    return _three_channels(to_uint8(shown)).cpu()


def _three_channels(clips: Tensor) -> Tensor:
    """Make clips (..., C) uint8 viewable: one-hot maps become grey levels, grey becomes RGB."""
    n_channels = clips.shape[-1]
    if n_channels == 3:
        return clips
    if n_channels > 3:
        clips = clips.argmax(dim=-1, keepdim=True) * 255 // (n_channels - 1)
    return clips[..., :1].to(torch.uint8).expand(*clips.shape[:-1], 3)


def _batch_size(batch: Batch) -> int:
    return len(next(iter(batch.values())))
