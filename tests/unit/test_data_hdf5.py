"""HDF5 files of frames, of codes, and with captions."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tats.data.clips import ClipKey, ClipSampler
from tats.data.hdf5 import HDF5Dataset, HDF5TextDataset, HDF5TokenDataset
from tats.errors import UserError
from tests.small_data import frame_numbers, write_hdf5


def open_frames(path: Path, **options: object) -> HDF5Dataset:
    settings = {"train": True, "sequence_length": 4, "resolution": 16}
    return HDF5Dataset(path=path, **{**settings, **options})  # type: ignore[arg-type]


def open_codes(path: Path, **options: object) -> HDF5TokenDataset:
    settings = {"train": True, "sequence_length": 4, "resolution": 6, "spatial_length": 4}
    return HDF5TokenDataset(path=path, **{**settings, **options})  # type: ignore[arg-type]


@pytest.fixture
def frames_file(tmp_path: Path) -> Path:
    write_hdf5(tmp_path / "videos.h5", {"train": [6, 3, 4], "test": [9]})
    return tmp_path / "videos.h5"


@pytest.fixture
def codes_file(tmp_path: Path) -> Path:
    write_hdf5(tmp_path / "codes.h5", {"train": [6, 4], "test": [9]}, codes_side=6)
    return tmp_path / "codes.h5"


def test_an_item_is_a_window_of_one_video_the_last_window_included(frames_file: Path) -> None:
    dataset = open_frames(frames_file)
    assert len(dataset) == 2  # the video of 3 frames is too short
    first = Counter(frame_numbers(dataset[ClipKey(0, e)]["video"])[0] for e in range(60))
    assert set(first) == {0, 1, 2}
    assert min(first.values()) > 8
    assert frame_numbers(dataset[1]["video"]) == [0, 1, 2, 3]


def test_skipped_frames_count_in_the_window(frames_file: Path) -> None:
    dataset = open_frames(
        frames_file, train=False, sequence_length=9, sample_every_n_frames=4, resolution=8
    )
    clip = dataset[0]["video"]
    assert clip.shape == (3, 3, 8, 8)
    assert frame_numbers(clip) == [0, 4, 8]


def test_workers_read_the_file_their_parent_has_open(frames_file: Path) -> None:
    dataset = open_frames(frames_file)
    alone = [dataset[ClipKey(index, 3)]["video"] for index in range(2)]
    sampler = ClipSampler(dataset, seed=0, shuffle=False)
    sampler.set_epoch(3)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=1)
    assert torch.equal(next(iter(loader))["video"], torch.stack(alone))
    sent = pickle.loads(pickle.dumps(dataset))  # what spawned workers get
    assert torch.equal(sent[ClipKey(0, 3)]["video"], alone[0])


def test_crops_of_codes_say_where_they_lie(codes_file: Path) -> None:
    dataset = open_codes(codes_file)
    seen = set()
    for epoch in range(150):
        item = dataset[ClipKey(0, epoch)]
        y0, y1, x0, x1 = item["cbox"].tolist()
        start = int(item["video"][0, 0, 0]) // 100
        time, row, column = np.indices((4, 4, 4))
        expected = 100 * (time + start) + 10 * (row + y0) + column + x0
        assert item["video"].dtype == torch.int64
        assert np.array_equal(item["video"], expected)
        assert (y1 - y0, x1 - x0) == (4, 4)
        seen.add((start, y0, x0))
    assert len(seen) == 3 * 3 * 3


def test_codes_are_not_cropped_where_the_crop_is_as_large_as_the_video(codes_file: Path) -> None:
    item = open_codes(codes_file, spatial_length=15, sample_every_n_frames=3)[1]
    assert item["video"].shape == (2, 6, 6)
    assert item["cbox"].tolist() == [0, 6, 0, 6]


def test_an_item_gets_one_of_its_videos_captions(frames_file: Path) -> None:
    lines = ["a dog\tthe dog", "left out", "zwölf Katzen"]
    captions = frames_file.with_name("train_text_description.txt")
    captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    dataset = HDF5TextDataset(
        path=frames_file,
        train=True,
        sequence_length=4,
        resolution=16,
        tokenize=lambda text: torch.tensor([len(text)]),
    )
    assert {int(dataset[ClipKey(0, epoch)]["text"]) for epoch in range(20)} == {5, 7}
    assert dataset[1]["text"].tolist() == [12]
    captions.write_text("a dog\n\nfour\n")
    with pytest.raises(UserError, match="captions for 2 videos; expected 3"):
        HDF5TextDataset(
            path=frames_file,
            train=True,
            sequence_length=4,
            resolution=16,
            tokenize=lambda text: torch.zeros(1),
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train_data": np.zeros((4, 8, 8, 3), np.uint8)}, "no array train_idx"),
        ({"train_data": np.zeros((4, 8, 8, 3)), "train_idx": np.array([0, 4])}, "uint8 frames"),
        ({"train_data": np.zeros((4, 8, 8), np.uint8), "train_idx": np.array([0, 4])}, "uint8"),
        ({"train_data": np.zeros((4, 8, 8, 3), np.uint8), "train_idx": np.array([0, 9])}, "bad"),
        ({"train_data": np.zeros((4, 8, 8, 3), np.uint8), "train_idx": np.array([4, 0])}, "bad"),
        (
            {"train_data": np.zeros((4, 8, 8, 3), np.uint8), "train_idx": np.array([0, 3])},
            "no clip",
        ),
    ],
)
def test_files_with_another_content_are_user_errors(
    tmp_path: Path, content: dict[str, np.ndarray], message: str
) -> None:
    with h5py.File(tmp_path / "videos.h5", "w") as file:
        file.update(content)
    with pytest.raises(UserError, match=message):
        open_frames(tmp_path / "videos.h5")


def test_codes_of_another_size_and_files_of_another_kind_are_user_errors(
    tmp_path: Path, codes_file: Path, frames_file: Path
) -> None:
    with pytest.raises(UserError, match="--resolution 7"):
        open_codes(codes_file, resolution=7)
    with pytest.raises(UserError, match="whole-number codes"):
        open_codes(frames_file)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(UserError, match="expected a folder or an HDF5 file"):
        open_frames(tmp_path / "text.h5")


def test_a_forked_process_opens_the_file_anew(
    frames_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_frames(frames_file).store
    frames = store.read(0, 2, 1)
    parents = store._opened
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert np.array_equal(store.read(0, 2, 1), frames)
    assert parents is not None and store._opened is not None
    assert store._opened[1] is not parents[1]
