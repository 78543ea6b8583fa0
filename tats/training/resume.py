"""Continuing training from a checkpoint of ours or of the published Trainer (Lightning ≤ 1.5)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tats.errors import UserError
from tats.weights.checkpoint import read_content
from tats.weights.files import is_finite

log = logging.getLogger(__name__)

FLAG = "--resume_from_checkpoint"
VERSION_KEY = "pytorch-lightning_version"
GRADIENTS_KEY = "accumulated_gradients"
_STRUCTURE: dict[str, tuple[type, str]] = {
    "global_step": (int, "a count of steps"),
    "epoch": (int, "a count of epochs"),
    "callbacks": (dict, "their states by name"),
    "loops": (dict, "their states by name"),
    "optimizer_states": (list, "one state for each optimiser"),
    "lr_schedulers": (list, "one state for each schedule"),
}


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's way of reading checkpoints, without executing what is in them."""

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint for resuming; ``map_location`` is the CPU whatever is asked."""
        content = read_content(Path(path), flag=FLAG, mapped=False)
        content = _from_published(content) if _is_published(content) else content
        _check_structure(content, path)
        # A file that names no callbacks would be passed by all of ours.
        return {**content, "callbacks": content.get("callbacks") or {}}


def _is_published(content: dict[str, Any]) -> bool:
    """Whether Lightning 1.5 or older wrote the file, or it is a slim one: weights alone."""
    version = str(content.get(VERSION_KEY, "0")).split(".")
    return tuple(int(part) if part.isdecimal() else 0 for part in version[:2]) < (1, 6)


def _from_published(content: dict[str, Any]) -> dict[str, Any]:
    """Make a file of the published Trainer mean the same to today's, which migrates the rest.

    It stored one step more than were done, and states of callbacks that are not ours.
    """
    stored_step = content.get("global_step", 0)
    return {
        **content,
        "global_step": max(stored_step - 1, 0) if type(stored_step) is int else stored_step,
        "epoch": content.get("epoch", 0),
        "callbacks": {},
        "optimizer_states": content.get("optimizer_states") or [],
        "lr_schedulers": [],
        VERSION_KEY: content.get(VERSION_KEY, "1.5.0"),
    }


def _check_structure(content: dict[str, Any], path: Any) -> None:
    """Hold what the Trainer restores without looking to its types."""
    for key, (kind, expected) in _STRUCTURE.items():
        value = content.get(key)
        fits = type(value) is kind and not (isinstance(value, int) and value < 0)
        if value is not None and not fits:
            shown = value if isinstance(value, (int, float)) else type(value).__name__
            raise UserError(f"{FLAG}: {path} has {shown} for its {key}; expected {expected}")


class CheckedOptimizerStates(Callback):
    """Keeps optimiser states that do not fit the model from reaching its optimisers."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the states once the model has said what it takes from the file."""
        optimizers = pl_module.configure_optimizers()
        if isinstance(optimizers, torch.optim.Optimizer):
            optimizers = [optimizers]
        check_optimizer_states(checkpoint, optimizers)  # type: ignore[arg-type]


class AccumulatedGradients(Callback):
    """Keeps the gradients of a window of accumulation that a checkpoint cuts.

    Not those of several processes where Lightning steps: each has a part, and one of them writes.
    """

    def __init__(self) -> None:
        self._stored: dict[str, torch.Tensor] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store what was accumulated, if anything was."""
        shared = pl_module.automatic_optimization and trainer.world_size > 1
        if _cuts_window(trainer, pl_module) and not shared:
            named = pl_module.named_parameters()
            gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
            checkpoint[GRADIENTS_KEY] = gradients

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the gradients if they fit the model."""
        stored = checkpoint.get(GRADIENTS_KEY, {})
        own = dict(pl_module.named_parameters())
        if not isinstance(stored, dict) or not all(
            isinstance(gradient, torch.Tensor)
            and name in own
            and gradient.shape == own[name].shape
            and is_finite(gradient)
            for name, gradient in stored.items()
        ):
            log.warning("the checkpoint's accumulated gradients do not fit; going on without them")
            stored = {}
        self._stored = stored

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the gradients where the window goes on."""
        if self._stored and _cuts_window(trainer, pl_module):
            own = dict(pl_module.named_parameters())
            for name, gradient in self._stored.items():
                own[name].grad = gradient.to(own[name])
        self._stored = {}


def _cuts_window(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    """Whether the batches done of this epoch leave a window of accumulation open."""
    n_window = trainer.accumulate_grad_batches
    if not pl_module.automatic_optimization:  # the VQGAN steps by hand
        args: Any = pl_module.args
        n_window = args.accumulate_grad_batches or 1
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.processed % n_window != 0 and progress.processed < trainer.num_training_batches


def check_optimizer_states(
    checkpoint: dict[str, Any], optimizers: Iterable[torch.optim.Optimizer]
) -> None:
    """Drop a checkpoint's optimiser states, with a warning, unless they fit the optimisers.

    Args:
        checkpoint: a whole checkpoint; changed in place.
        optimizers: those it would be loaded into, in order.
    """
    states = checkpoint.get("optimizer_states") or []
    pairs = zip(optimizers, states, strict=False) if isinstance(states, list) else []
    if not isinstance(states, list) or not all(_fits(state, own) for own, state in pairs):
        log.warning("the checkpoint's optimiser states do not fit; starting with fresh ones")
        states = []
    checkpoint["optimizer_states"] = states


def _fits(state: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Whether an Adam's stored state has a finite moment of the right shape for each parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        stored = [index for group in state["param_groups"] for index in group["params"]]
        if len(stored) != len(parameters) or len(state["param_groups"]) != len(
            optimizer.param_groups
        ):
            return False
        for index, parameter in zip(stored, parameters, strict=True):
            for moment in ("exp_avg", "exp_avg_sq"):
                value = state["state"].get(index, {}).get(moment)
                if value is not None and (value.shape != parameter.shape or not is_finite(value)):
                    return False
    except (TypeError, KeyError, AttributeError):  # not the structure of any optimiser's state
        return False
    return True
