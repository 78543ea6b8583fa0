"""What every random choice depends on: what is chosen, and never when or where.

Training data are a function of (seed, epoch, item), a training step's draws of (seed, clips trained
on before it), samples of (seed, sample number, canvas token, code): neither the number of
processes, the device nor an interruption changes one. Seeds come from NumPy's ``SeedSequence``,
whose output is the same on every machine and in every version; the noise of a code from integer
arithmetic that is the same on every device.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: steps of it visit every number
_STEP = 2**32 - 1  # tells the draws of a step from those of an item


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


def seed_step(seed: int, n_drawn: int) -> None:
    """Set the common generators of Python, NumPy and PyTorch, on all devices, for a training step.

    So what a model draws does not depend on what was drawn before it, by validation or by a start.

    Args:
        seed: of the run, 0 or more.
        n_drawn: clips that were trained on before this step, over all epochs.
    """
    mixed = _mixed(seed, n_drawn, _STEP)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


def draw_keys(seeds: Sequence[int], n_tokens: int) -> Int[Tensor, "B n_tokens 2"]:
    """Give every canvas token of some samples the key of its random numbers.

    Args:
        seeds: the samples', each in [0, 2**64).
        n_tokens: canvas tokens; a longer canvas begins with the keys of a shorter one.

    Returns:
        int32: the two halves of a 64-bit hash of seed and token.

    Source: the finalizer is that of SplitMix64 (Steele, Lea and Flood 2014).
    """
    x = np.array(list(seeds), dtype=np.uint64)[:, None]  # (B, 1)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        x = _mix64(x + np.uint64(_GOLDEN))
        x = _mix64(x + np.arange(1, n_tokens + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    halves = np.stack([x >> np.uint64(32), x & np.uint64(0xFFFFFFFF)], axis=-1)
    return torch.from_numpy(halves.astype(np.uint32).view(np.int32))


def gumbel_noise(keys: Int[Tensor, "B 2"], n_codes: int) -> Float[Tensor, "B n_codes"]:
    """Give codes 0, 1, 2 … their noise under some keys.

    Args:
        keys: see ``draw_keys``.
        n_codes: how many codes.

    Returns:
        Float32, -log(-log(u)) of a hash u of key and code: independent draws of the standard
        Gumbel distribution, the same on every device.

    Source: the finalizer is that of MurmurHash3 (Appleby), applied twice.
    """
    first, second = keys[:, :1], keys[:, 1:]
    codes = torch.arange(n_codes, dtype=torch.int32, device=keys.device)
    x = _mix32(_mix32(codes * _signed(_GOLDEN) + first) ^ second)
    u = ((x >> 1 & 0x7FFFFFFF).double() + 0.5) / 2**31
    # Logarithms of float64 may differ in their last bits from device to device; after rounding to
    # float32 they do not.
    return -torch.log(-torch.log(u)).float()


def _mix64(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix32(x: Tensor) -> Tensor:
    """Mix 32-bit numbers; products are modulo 2^32, and shifts bring in zeros."""
    x = (x ^ (x >> 16 & 0xFFFF)) * _signed(0x85EBCA6B)
    x = (x ^ (x >> 13 & 0x7FFFF)) * _signed(0xC2B2AE35)
    return x ^ (x >> 16 & 0xFFFF)


def _signed(x: int) -> int:
    """The int32 with the bits of a number's last 32."""
    return (x + 2**31) % 2**32 - 2**31


def draw(n_choices: int, generator: torch.Generator) -> int:
    """Draw an integer in [0, n_choices)."""
    return int(torch.randint(low=0, high=n_choices, size=(1,), generator=generator))


def _mixed(*numbers: int) -> int:
    """Mix numbers, each 0 or more, to one in [0, 2**63): what both NumPy and PyTorch take."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
