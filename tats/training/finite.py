"""Steps whose loss or gradients are not finite are named and skipped, and at last end a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from tats.errors import UserError
from tats.training.stopping import Save, agreed

log = logging.getLogger(__name__)


class SkipNotFinite(Callback):
    """Take no step on a loss or a gradient that is not finite, and learn nothing from its batch.

    Optimisers are left without gradients, so weights, moments and counts of steps stay, and
    running statistics are put back. In float16 the scaler skips steps whose gradients overflow
    as it finds its scale; those are not counted.

    Args:
        n_allowed: steps in a row to skip; one more ends training.
        leave: makes sure that there is a state to go on from; None where none is wanted.
    """

    def __init__(self, n_allowed: int, *, leave: Save | None = None) -> None:
        self._n_allowed = n_allowed
        self._leave = leave
        self._finite: Tensor | None = None  # whether the losses of this step are, on their device
        self._skipped = False
        self._step = 0
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self.n_in_a_row = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what a model that steps by hand steps on."""
        self._step = trainer.global_step
        if not pl_module.automatic_optimization:
            for optimizer in trainer.optimizers:
                optimizer.register_step_pre_hook(self._step_by_hand(trainer))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Remember the running statistics as they are before a step."""
        if not self._statistics:
            self._statistics = [
                (buffer, buffer.clone())
                for module in pl_module.modules()
                if module.training
                for buffer in module.buffers(recurse=False)
                if buffer.is_floating_point()
            ]

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Note whether a loss is finite, without waiting for it."""
        finite = loss.detach().isfinite().all()
        self._finite = finite if self._finite is None else self._finite & finite

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Look at gradients before they are clipped."""
        if pl_module.automatic_optimization:
            scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
            self._look(trainer, optimizer, gradients_count=not scaled)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Where a step ends, count it."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._skipped:
            self.n_in_a_row += 1
            for buffer, before in self._statistics:
                buffer.copy_(before)
            self._report(trainer)
        else:
            self.n_in_a_row = 0
        self._finite, self._skipped, self._statistics = None, False, []

    def _step_by_hand(self, trainer: pl.Trainer) -> Callable[..., None]:
        def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self._look(trainer, optimizer, gradients_count=True)

        return look

    def _look(
        self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer, *, gradients_count: bool
    ) -> None:
        """Take an optimiser's gradients away if they, or the losses, are not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = torch.tensor(True) if self._finite is None else self._finite
        if gradients and gradients_count:
            norm = torch.nn.utils.get_total_norm(gradients)
            finite = finite & norm.isfinite().to(finite.device)
        if agreed(trainer, int(not bool(finite))):
            self._skipped = True
            for parameter in parameters:
                parameter.grad = None  # then there is no step, not even one of momentum

    def _report(self, trainer: pl.Trainer) -> None:
        figures = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        bad = [f"{name} {float(value)}" for name, value in figures.items() if not value.isfinite()]
        got = ", ".join(bad) or "finite losses, but a gradient norm that is not"
        if self.n_in_a_row <= self._n_allowed:
            log.warning(
                "step %d was skipped, %d in a row (--max_skipped_steps %d): got %s",
                self._step, self.n_in_a_row, self._n_allowed, got,
            )  # fmt: skip
            return
        kept = f"; {self._leave(trainer)} is sound" if self._leave else ""
        raise UserError(
            f"training ends at step {self._step}: got {got}, {self.n_in_a_row} steps in a row;"
            f" expected finite values{kept}: go on with --resume_from_checkpoint last and a lower"
            " learning rate, or with --precision 32"
        )
