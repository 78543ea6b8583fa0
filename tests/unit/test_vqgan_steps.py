"""The VQGAN's two optimisers, stepped by hand: clipping, accumulation, and the scale of float16."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import MixedPrecision
from tiny import VQGAN_FLAGS
from torch.utils.data import DataLoader

from tats.models.vqgan import VQGAN

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CLIP = 0.05
# Steps so small that the gradients of later ones can be compared too.
SMALL = {"resolution": 8, "sequence_length": 4, "disc_layers": 1, "lr": 1e-6,
         "discriminator_iter_start": 0}  # fmt: skip


class Watch(Callback):
    """Note the gradients each optimiser steps by, in order, and the scale of each backward."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.scales: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._note)

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        if scaler := getattr(trainer.precision_plugin, "scaler", None):
            self.scales.append(scaler.get_scale())


def fit(videos: torch.Tensor, scaler: torch.amp.GradScaler | None = None, **flags: Any) -> Watch:
    """Train a tiny VQGAN on batches of two clips, in float16 where there is a scaler."""
    torch.manual_seed(0)
    vqgan, watch = VQGAN({**VQGAN_FLAGS, **SMALL, **flags}), Watch()
    vqgan.codebook.N.fill_(1.0)
    vqgan.codebook.nearest = lambda rows: torch.arange(len(rows)) % 32  # as if no code flipped
    precision = [MixedPrecision("16-mixed", "cpu", scaler)] if scaler else []
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        callbacks=[watch],
        plugins=precision,
        gradient_clip_algorithm=flags.get("gradient_clip_algorithm"),
    )
    trainer.fit(vqgan, DataLoader([{"video": video} for video in videos], batch_size=None))
    watch.vqgan, watch.global_step = vqgan, trainer.global_step
    return watch


@pytest.fixture
def videos() -> torch.Tensor:
    return torch.rand(6, 2, 3, 4, 8, 8) - 0.5


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_float16_gives_both_optimisers_the_gradients_of_float32(videos, accumulate, clip):
    flags = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=1)
    half, single = fit(videos, scaler, **flags), fit(videos, **flags)
    n_steps = len(videos) // accumulate
    assert half.global_step == single.global_step == n_steps
    assert len(half.gradients) == len(single.gradients) == 2 * n_steps
    for got, expected in zip(half.gradients[:2], single.gradients[:2], strict=True):
        assert torch.cosine_similarity(got, expected, dim=0) > 0.99
        torch.testing.assert_close(got.norm(), expected.norm(), rtol=0.05, atol=0)
        if clip:
            assert got.norm() <= clip * 1.001
    # The scale doubles after each step: micro-batches that add up share one, and so do both
    # optimisers of a step.
    backwards = 2 * accumulate
    assert half.scales == [2.0 ** (6 + step) for step in range(n_steps) for _ in range(backwards)]


@pytest.mark.parametrize("clip", [None, CLIP])
def test_gradients_that_overflow_skip_the_step_halve_the_scale_once_and_still_count(videos, clip):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=1000)
    flags = {"accumulate_grad_batches": 2, "gradient_clip_val": clip}
    watch = fit(videos, scaler, **flags)
    assert watch.global_step == 3
    assert watch.gradients == []  # neither optimiser stepped
    assert scaler.get_scale() == 2.0**57
    for parameter in watch.vqgan.parameters():
        assert parameter.isfinite().all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_clipped_by_value_where_that_is_asked(videos, accumulate):
    flags = {"gradient_clip_val": 1e-4, "accumulate_grad_batches": accumulate}
    by_value = fit(videos[:2], **flags, gradient_clip_algorithm="value")
    for gradient in by_value.gradients:
        assert gradient.abs().max() == pytest.approx(1e-4)
        assert gradient.norm() > 2e-4
    for gradient in fit(videos[:2], **flags).gradients:
        assert gradient.norm() == pytest.approx(1e-4, rel=0.01)
