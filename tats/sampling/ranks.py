"""Which of several processes this one is: by torchrun's variables, by srun's, or the only one.

A launcher's variables count all together or not at all: a ``RANK`` or ``WORLD_SIZE`` that some
shell left behind must not make anyone wait for processes that were never started, nor must the
``SLURM_PROCID=0`` of a batch script that calls Python without ``srun``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from tats.errors import UserError

Item = TypeVar("Item")

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_ID")


class Place(NamedTuple):
    """Where this process stands among those that were launched together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of its machine


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Ask the launcher.

    Args:
        environment: its variables; None for this process's.

    Raises:
        UserError: they are not numbers, or make no sense together.
    """
    environment = os.environ if environment is None else environment
    for names in (_TORCHRUN, _SRUN):
        if all(environment.get(name) for name in names):
            return _checked(environment, names)
    return Place()


def _checked(environment: Mapping[str, str], names: Sequence[str]) -> Place:
    got = ", ".join(f"{name}={environment[name]}" for name in names[:3])
    try:
        rank, world_size, local_rank = (int(environment[name]) for name in names[:3])
    except ValueError:
        raise UserError(f"got {got}; expected numbers: unset them, or use the launcher") from None
    if not (0 <= rank < world_size and local_rank >= 0):
        raise UserError(
            f"got {got}; expected a rank below the number of processes: unset them, or use the "
            "launcher"
        )
    return Place(rank, world_size, local_rank)


def rank() -> int:
    """Number of this process among all, 0 where it is the only one."""
    return place().rank


def world_size() -> int:
    """How many processes were launched together."""
    return place().world_size


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return place().local_rank


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """Deal items out: of n processes, each gets every n-th item."""
    return items[rank() :: world_size()]
