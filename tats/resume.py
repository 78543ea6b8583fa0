"""Continuing training from a checkpoint of ours or of the published Trainer (Lightning ≤ 1.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from tats.checkpoints import read_plain

FLAG = "--resume_from_checkpoint"
VERSION_KEY = "pytorch-lightning_version"


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's way of reading checkpoints, without executing what is in them."""

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint for resuming; ``map_location`` is the CPU whatever is asked."""
        content = read_plain(Path(path), flag=FLAG, mapped=False)
        return _from_published(content) if _is_published(content) else content


def _is_published(content: dict[str, Any]) -> bool:
    """Whether Lightning 1.5 or older wrote the file."""
    version = str(content.get(VERSION_KEY, "0")).split(".")
    return tuple(int(part) if part.isdecimal() else 0 for part in version[:2]) < (1, 6)


def _from_published(content: dict[str, Any]) -> dict[str, Any]:
    """Make a file of the published Trainer mean the same to today's, which migrates the rest.

    It stored one step more than were done, and states of callbacks that are not ours.
    """
    return {
        **content,
        "global_step": max(content.get("global_step", 0) - 1, 0),
        "epoch": content.get("epoch", 0),
        "callbacks": {},
        "optimizer_states": content.get("optimizer_states") or [],
        "lr_schedulers": [],
        VERSION_KEY: content.get(VERSION_KEY, "1.5.0"),
    }
