"""Every random choice is a function of what is chosen."""

from __future__ import annotations

import math

import numpy as np
import torch

from tats.randomness import (
    draw,
    draw_keys,
    epoch_generator,
    gumbel_noise,
    item_generator,
    sample_seed,
)

KNOWN_SAMPLE_SEEDS = [
    7896617691693857887,
    2918264622725855778,
    3717377837946358015,
    4184826799572828323,
]
KNOWN_CHOICES = [85, 572, 355, 448, 159]


def test_no_two_seeds_share_a_sample() -> None:
    seeds = {sample_seed(seed, sample) for seed in range(100) for sample in range(1000)}
    assert len(seeds) == 100 * 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_samples_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    known = [sample_seed(0, 0), sample_seed(0, 1), sample_seed(1, 0), sample_seed(2**32 - 1, 2047)]
    assert known == KNOWN_SAMPLE_SEEDS


def test_an_items_choices_depend_on_seed_epoch_and_item_alone() -> None:
    def choices(seed: int, epoch: int, item: int) -> list[int]:
        generator = item_generator(seed, epoch, item)
        return [draw(1000, generator) for _ in range(5)]

    torch.manual_seed(7)
    first = choices(1234, 2, 3)
    torch.manual_seed(8)
    assert choices(1234, 2, 3) == first == KNOWN_CHOICES
    others = [choices(1235, 2, 3), choices(1234, 3, 3), choices(1234, 2, 4), choices(1234, 3, 2)]
    assert first not in others and others[1] != others[3]


def test_every_epoch_has_an_order_of_its_own() -> None:
    which = [(5, 0), (5, 0), (5, 1), (6, 0)]
    orders = [epoch_generator(seed, epoch).permutation(50).tolist() for seed, epoch in which]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3]


def mix32(x: int) -> int:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 16)


def mix64(x: int) -> int:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) % 2**64
    return x ^ (x >> 31)


def test_a_codes_noise_is_known_by_seed_token_and_code() -> None:
    golden, seeds = 0x9E3779B97F4A7C15, [0, 1, 2**63 - 1]
    keys = draw_keys(seeds, 7)
    noise = gumbel_noise(keys[:, 6], 1000)
    for row, seed in enumerate(seeds):
        state = mix64((mix64((seed + golden) % 2**64) + 7 * golden) % 2**64)
        first, second = divmod(state, 2**32)
        assert [key % 2**32 for key in keys[row, 6].tolist()] == [first, second]
        for code in (0, 1, 999):
            x = mix32(mix32((code * (golden % 2**32) + first) % 2**32) ^ second)
            expected = -math.log(-math.log((x // 2 + 0.5) / 2**31))
            assert noise[row, code].item() == np.float32(expected)


def test_a_longer_canvas_begins_with_the_keys_of_a_shorter_one() -> None:
    assert torch.equal(draw_keys([5, 6], 300)[:, :20], draw_keys([5, 6], 20))
    assert len(set(map(tuple, draw_keys(range(50), 300).flatten(0, 1).tolist()))) == 50 * 300


def test_noise_is_that_of_independent_gumbel_numbers() -> None:
    keys = draw_keys(range(40), 50)  # neighbouring seeds and tokens
    noise = torch.stack([gumbel_noise(keys[:, token], 64) for token in range(50)], dim=1)
    uniform = torch.exp(-torch.exp(-noise.double()))  # (40, 50, 64): seeds, tokens, codes
    n = uniform.numel()
    ordered = uniform.flatten().sort().values
    distance = (ordered - torch.arange(n) / n).abs().max()
    assert distance < 1.95 / n**0.5  # Kolmogorov and Smirnov, one in a thousand
    centred = uniform - 0.5
    for axis in range(3):  # neighbours along each axis know nothing of each other
        length = centred.shape[axis]
        a, b = centred.narrow(axis, 0, length - 1), centred.narrow(axis, 1, length - 1)
        correlation = (a * b).mean() * 12
        assert abs(correlation) < 4 / a.numel() ** 0.5
