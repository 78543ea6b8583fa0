"""Looking into training at the moment it starts."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class Watch(Callback):
    """Notes the state training starts with, and the step it ends with."""

    step = -1
    last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        self.weights = {k: v.clone() for k, v in pl_module.state_dict().items()}
        self.states: list[dict[int, dict[str, Any]]] = [
            {
                i: {k: torch.as_tensor(v).clone() for k, v in state.items()}
                for i, state in one.items()
            }
            for one in (optimizer.state_dict()["state"] for optimizer in trainer.optimizers)
        ]
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last_step = trainer.global_step


def watched(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch the next training that a script starts in this process."""
    from tats.training import trainer as training

    watch, callbacks = Watch(), training._callbacks
    monkeypatch.setattr(training, "_callbacks", lambda *given: [*callbacks(*given), watch])
    return watch


def assert_moments_kept(watch: Watch, stored: list[dict[str, Any]]) -> None:
    """Every parameter's moments and step count are those of a checkpoint's optimiser states."""
    assert len(watch.states) == len(stored)
    for states, wanted in zip(watch.states, stored, strict=True):
        assert states.keys() == wanted["state"].keys() and states
        for index, state in wanted["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(states[index][name], state[name]), (index, name)
            assert int(states[index]["step"]) == int(state["step"])
