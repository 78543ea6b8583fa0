"""Folders of frames: which are videos, in which order, and which windows they give."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tats.data.clips import ClipKey
from tats.data.frame_folders import FrameDataset
from tats.errors import UserError
from tests.small_data import frame_numbers, grey_frames, write_frame_folders


def open_frames(root: Path, **options: object) -> FrameDataset:
    settings = {"train": True, "sequence_length": 3, "resolution": 16}
    return FrameDataset(root=root, **{**settings, **options})  # type: ignore[arg-type]


def test_frames_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "sky"
    folder.mkdir(parents=True)
    for number, frame in zip((2, 9, 10, 100), grey_frames(4), strict=True):
        Image.fromarray(frame).save(folder / f"some_name_{number}.png")
    (folder / "notes.txt").write_text("no image")
    clip = open_frames(tmp_path, sequence_length=-1)[0]
    assert frame_numbers(clip["video"]) == [0, 1, 2, 3]


def test_every_window_is_drawn_the_last_one_included(tmp_path: Path) -> None:
    write_frame_folders(tmp_path, {"train/a": 7})
    dataset = open_frames(tmp_path, sample_every_n_frames=2)
    seen = Counter(tuple(frame_numbers(dataset[ClipKey(0, epoch)]["video"])) for epoch in range(60))
    assert set(seen) == {(0, 2, 4), (1, 3, 5), (2, 4, 6)}
    assert min(seen.values()) > 8


def test_a_video_of_exactly_one_clip_is_kept_and_shorter_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_frame_folders(tmp_path, {"train/a": 3, "train/b": 2})
    dataset = open_frames(tmp_path)
    assert len(dataset) == 1
    assert frame_numbers(dataset[0]["video"]) == [0, 1, 2]
    assert "1 shorter than a clip of 3 frames" in caplog.text


@pytest.mark.parametrize("names", [("train", "test"), ("sky_train", "sky_test")])
def test_each_split_reads_its_own_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    write_frame_folders(tmp_path, {f"{names[0]}/v/a": 4, f"{names[0]}/v/b": 4, f"{names[1]}/c": 5})
    assert [len(frames) for frames in open_frames(tmp_path).videos] == [4, 4]
    assert [len(frames) for frames in open_frames(tmp_path, train=False).videos] == [5]


def test_a_folder_without_splits_serves_both_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_frame_folders(tmp_path, {"a": 4, "b": 4})
    with caplog.at_level(logging.WARNING):
        assert len(open_frames(tmp_path)) == len(open_frames(tmp_path, train=False)) == 2
    assert "no train/ and test/" in caplog.text


def test_frames_are_cropped_to_the_central_square(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    frame = np.zeros((10, 31, 3), np.uint8)
    frame[:, 10:20] = 255
    Image.fromarray(frame).save(tmp_path / "train" / "f_0.png")
    clip = open_frames(tmp_path, sequence_length=1, resolution=10)[0]["video"]
    assert clip.shape == (3, 1, 10, 10)
    assert clip.unique().tolist() == [0.5]


def test_grey_and_palette_images_become_colour(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.fromarray(grey_frames(1)[0]).convert("L").save(tmp_path / "train" / "f_0.png")
    Image.fromarray(grey_frames(2)[1]).convert("P").save(tmp_path / "train" / "f_1.png")
    assert frame_numbers(open_frames(tmp_path, sequence_length=2)[0]["video"]) == [0, 1]


def test_a_damaged_frame_is_replaced_by_another_clip(tmp_path: Path) -> None:
    write_frame_folders(tmp_path, {"train/a": 3, "train/b": 3})
    damaged = tmp_path / "train" / "a" / "frame_00001.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    dataset = open_frames(tmp_path)
    assert frame_numbers(dataset[0]["video"]) == [0, 1, 2]
    assert dataset.n_failed >= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train/a": 4}, "none as its test folder"),
        ({"train/a": 4, "test/a": 2}, "no clip"),
        ({"a_test/a": 4, "b_test/b": 4}, "a_test, b_test as its test folder"),
    ],
)
def test_wrong_folders_are_user_errors(
    tmp_path: Path, content: dict[str, int], message: str
) -> None:
    write_frame_folders(tmp_path, content)
    with pytest.raises(UserError, match=message):
        open_frames(tmp_path, train=False)


def test_frames_without_number_and_folders_without_frames_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="has no image"):
        open_frames(tmp_path)
    Image.fromarray(grey_frames(1)[0]).save(tmp_path / "train" / "first.png")
    with pytest.raises(UserError, match=r"first\.png has no frame number"):
        open_frames(tmp_path)
