"""Every random choice is a function of what is chosen."""

from __future__ import annotations

import torch

from tats.randomness import draw, epoch_generator, item_generator, sample_seed

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
