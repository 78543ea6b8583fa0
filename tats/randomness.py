"""What every random choice depends on: what is chosen, and never when or where.

Training data are a function of (seed, epoch, item), samples of (seed, sample number): neither the
batch size nor the number of processes, the device or an interruption changes one. The numbers come
from NumPy's ``SeedSequence``, whose output is the same on every machine and in every version.
"""

from __future__ import annotations

import numpy as np
import torch


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Make the source of an epoch's order of items."""
    return np.random.default_rng([seed, epoch])


def item_generator(seed: int, epoch: int, item: int) -> torch.Generator:
    """Make the source of all random choices of one item, such as where its clip starts."""
    return torch.Generator().manual_seed(_mixed(seed, epoch, item))


def sample_seed(seed: int, sample: int) -> int:
    """Give the seed of one sample; two seeds of a run share none.

    Args:
        seed: of the run, 0 or more.
        sample: number of the sample, 0 or more.

    Returns:
        A number in [0, 2**63).
    """
    return _mixed(seed, sample)


def draw(n_choices: int, generator: torch.Generator) -> int:
    """Draw an integer in [0, n_choices)."""
    return int(torch.randint(low=0, high=n_choices, size=(1,), generator=generator))


def _mixed(*numbers: int) -> int:
    """Mix numbers, each 0 or more, to one in [0, 2**63): what both NumPy and PyTorch take."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
