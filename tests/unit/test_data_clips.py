"""Randomness, sampling and failures that all datasets share."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from tats.data.clips import (
    MAX_ATTEMPTS,
    MIN_FAILURES,
    ClipDataset,
    ClipKey,
    ClipSampler,
    check_enough_videos,
)
from tats.data.decoding import DecodeError
from tats.errors import UserError
from tats.randomness import draw


class Draws(ClipDataset):
    """Items that are random numbers; those in ``broken`` cannot be read."""

    def __init__(self, n_items: int = 20, broken: frozenset[int] = frozenset()) -> None:
        super().__init__(seed=3)
        self.n_items = n_items
        self.broken = broken

    def __len__(self) -> int:
        return self.n_items

    def clip(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        if index in self.broken:
            raise DecodeError(f"item{index}.mp4")
        number = draw(1_000_000, generator)
        return {"index": torch.tensor(index), "number": torch.tensor(number)}


def batches(n_workers: int, epoch: int) -> list[tuple[list[int], list[int]]]:
    dataset = Draws()
    sampler = ClipSampler(dataset, seed=5)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=3, sampler=sampler, num_workers=n_workers)
    return [(batch["index"].tolist(), batch["number"].tolist()) for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than the machine's cores
def test_batches_do_not_depend_on_the_number_of_workers() -> None:
    alone = batches(0, epoch=2)
    assert alone == batches(1, epoch=2) == batches(3, epoch=2)
    assert len(alone) == 7
    assert len(alone[-1][0]) == 2  # the last, smaller batch is kept


def test_every_epoch_has_its_own_order_and_its_own_draws() -> None:
    first, second = batches(0, epoch=0), batches(0, epoch=1)
    order = [index for indices, _ in first for index in indices]
    assert sorted(order) == list(range(20))
    assert order != [index for indices, _ in second for index in indices]
    dataset = Draws()
    assert dataset[ClipKey(4, 0)]["number"] == dataset[4]["number"]
    assert dataset[ClipKey(4, 0)]["number"] != dataset[ClipKey(4, 1)]["number"]
    assert dataset[4]["number"] != dataset[5]["number"]


def test_a_fixed_sampler_repeats_its_first_epoch() -> None:
    sampler = ClipSampler(Draws(), seed=5, fixed=True)
    first = list(sampler)
    sampler.set_epoch(7)
    assert list(sampler) == first


def test_processes_share_an_epoch_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        parts.append([key.item for key in ClipSampler(Draws(), seed=5)])
    assert [len(part) for part in parts] == [7, 7, 7]
    counts = Counter(item for part in parts for item in part)
    assert sorted(counts) == list(range(20))
    assert sorted(counts.values()) == [1] * 19 + [2]  # one clip fills the last process's part


def test_balanced_sampling_draws_every_label_equally_often() -> None:
    labels = np.array([0] * 900 + [2] * 90 + [5] * 10)
    sampler = ClipSampler(Draws(1000), seed=5, balanced_labels=labels)
    drawn = Counter(int(labels[key.item]) for key in sampler)
    assert set(drawn) == {0, 2, 5}
    assert all(abs(count - 1000 / 3) < 80 for count in drawn.values())
    assert len({key.item for key in sampler}) > 200


def test_an_unreadable_clip_is_replaced_by_the_same_other_one_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = Draws(broken=frozenset({4}))
    with caplog.at_level(logging.WARNING):
        other = dataset[4]
    assert other["index"] != 4
    assert "item4.mp4" in caplog.text
    assert dataset.n_failed == 1
    assert Draws(broken=frozenset({4}))[4] == other


def test_a_dataset_in_which_nothing_can_be_read_is_an_error() -> None:
    dataset = Draws(broken=frozenset(range(20)))
    with pytest.raises(UserError, match=f"{MAX_ATTEMPTS} clips in a row"):
        dataset[0]
    assert dataset.n_read == MAX_ATTEMPTS


def test_too_many_unreadable_clips_in_a_run_are_an_error() -> None:
    dataset = Draws(n_items=100, broken=frozenset(range(0, 100, 4)))
    with pytest.raises(UserError, match=f"{MIN_FAILURES} of"):
        for index in range(100):
            dataset[index]


def test_indices_end_where_the_items_end() -> None:
    assert len(list(Draws(5))) == 5  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        Draws(5)[-1]


@pytest.mark.parametrize(
    ("n_videos", "n_unreadable", "n_short", "error"),
    [
        (4, 1, 0, None),
        (100, 10, 80, None),
        (3, 1, 2, "no clip"),
        (5, 5, 0, "no clip"),
        (5, 3, 0, "damaged"),
        (100, 11, 0, "damaged"),
    ],
)
def test_few_bad_videos_are_left_out_and_many_are_an_error(
    n_videos: int,
    n_unreadable: int,
    n_short: int,
    error: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = {"n_videos": n_videos, "n_unreadable": n_unreadable, "n_short": n_short}
    if error is None:
        check_enough_videos(Path("data"), **counts, min_frames=4)
        assert f"{n_videos} videos, {n_unreadable} of them unreadable" in caplog.text
    else:
        with pytest.raises(UserError, match=error):
            check_enough_videos(Path("data"), **counts, min_frames=4)
