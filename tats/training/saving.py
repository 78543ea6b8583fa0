"""Writing checkpoints: whole or not at all, beside their place, and finite states alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tats.errors import UserError
from tats.paths import atomic_path
from tats.training.resume import SafeCheckpointIO
from tats.weights.files import is_finite, reason_of


class WholeCheckpointIO(SafeCheckpointIO):
    """Writes checkpoints beside their place and moves them there when they are on the disk.

    Lightning's own way holds a second copy of the file in memory and may stage it in the system's
    folder for temporary files, which is small on many machines.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a file that was there stays as it was if that fails.

        Raises:
            UserError: the disk is full or cannot be written to, or the state is not finite.
        """
        path = Path(path)
        if bad := not_finite(checkpoint):
            raise UserError(
                f"{path} was not written: at step {checkpoint.get('global_step')} got NaN or"
                f" infinite values in {bad}; expected finite ones: go on from an earlier"
                " checkpoint, with a lower learning rate"
            )
        with atomic_path(path) as temporary:
            try:
                with open(temporary, "wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            except (OSError, RuntimeError) as error:  # torch's archive writer has its own errors
                raise _not_written(path, checkpoint, error) from error


def not_finite(checkpoint: Mapping[str, Any]) -> str | None:
    """Name a weight, running statistic or moment that is NaN or infinite, if there is one."""
    parts = {"state_dict": "weights", "optimizer_states": "optimiser states"}
    for key, kind in parts.items():
        for name, tensor in _tensors(checkpoint.get(key), ""):
            if tensor.is_floating_point() and not is_finite(tensor):
                return f"{name[:120]} of its {kind}"
    return None


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of nested dictionaries and lists with their names."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _tensors(inner, f"{name}.{number}" if name else str(number))


def _not_written(path: Path, checkpoint: Mapping[str, Any], error: Exception) -> UserError:
    n_bytes = sum(tensor.nbytes for _, tensor in _tensors(checkpoint, ""))
    free = shutil.disk_usage(path.parent).free
    cause: BaseException | None = error  # torch's error hides the system's
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    reason = (cause and cause.strerror) or reason_of(error)
    return UserError(
        f"{path} cannot be written ({reason}): got {free:,} free bytes in {path.parent}; expected"
        f" about {n_bytes:,}: make room and go on with --resume_from_checkpoint last; what was"
        " written before is untouched"
    )
