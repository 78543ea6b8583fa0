"""Which share of a run's samples this process makes, by the variables torchrun sets.

Processes never talk to each other: each makes the samples dealt to it, and the first one waits
for the others' files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def rank() -> int:
    """Number of this process among all, 0 where there is one only."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def own_share(indices: Sequence[int]) -> Sequence[int]:
    """Deal samples out: every n-th of them is this process's, of n processes."""
    return indices[rank() :: int(os.environ.get("WORLD_SIZE", "1"))]
