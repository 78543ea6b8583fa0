"""Folders of videos: classes, windows, and the index of what the files hold."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tats.data import video_index
from tats.data.video_files import VideoDataset, list_videos, video_class_names
from tats.data.video_index import CACHE_NAME, index_videos
from tats.errors import UserError
from tests.small_data import frame_numbers, write_video_folders

pytest.importorskip("av")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TATS_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lengths = {"train/dogs/a": 10, "train/cats/deep/er/b": 6, "train/cats/c": 5, "test/dogs/d": 7}
    write_video_folders(tmp_path, lengths)
    return tmp_path


def open_videos(root: Path, **options: object) -> VideoDataset:
    settings = {"train": True, "sequence_length": 4, "resolution": 16, "show_progress": False}
    return VideoDataset(root=root, **{**settings, **options})  # type: ignore[arg-type]


def test_every_window_of_every_video_is_a_clip(root: Path) -> None:
    dataset = open_videos(root)
    assert len(dataset) == 2 + 3 + 7  # cats/c, cats/deep/er/b, dogs/a
    clips = [frame_numbers(dataset[index]["video"]) for index in range(len(dataset))]
    starts = [0, 1, *range(3), *range(7)]
    assert clips == [list(range(start, start + 4)) for start in starts]
    assert dataset[0]["video"].shape == (3, 4, 16, 16)


def test_skipped_frames_count_in_the_window(root: Path) -> None:
    dataset = open_videos(root, sequence_length=5, sample_every_n_frames=2)
    assert len(dataset) == 1 + 2 + 6
    assert frame_numbers(dataset[8]["video"]) == [5, 7, 9]


def test_labels_number_the_sorted_training_folders_in_both_splits(root: Path) -> None:
    train, test = open_videos(root), open_videos(root, train=False)
    assert train.class_names == test.class_names == ["cats", "dogs", "er"]
    assert [int(train[index]["label"]) for index in (0, 2, 5)] == [0, 2, 1]
    assert train.labels().tolist() == [0] * 2 + [2] * 3 + [1] * 7
    assert test.labels().tolist() == [1] * 4


def test_videos_without_class_folders_form_one_class(tmp_path: Path) -> None:
    write_video_folders(tmp_path, {"train/a": 5, "train/b": 5, "test/c": 5}, suffix=".AVI")
    assert video_class_names(tmp_path) == [""]
    assert open_videos(tmp_path, train=False).labels().tolist() == [0, 0]


def test_hidden_files_and_links_to_folders_are_understood(root: Path) -> None:
    (root / "train" / "dogs" / "._a.mp4").write_bytes(b"resource fork")
    (root / "train" / "birds").symlink_to(root / "train" / "dogs", target_is_directory=True)
    names = [file.relative_to(root).as_posix() for file in list_videos(root / "train")]
    assert names == [
        "train/birds/a.mp4",
        "train/cats/c.mp4",
        "train/cats/deep/er/b.mp4",
        "train/dogs/a.mp4",
    ]


def test_damaged_and_short_videos_are_left_out_and_counted(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "train" / "dogs" / "broken.mp4").write_bytes(b"no video")
    (root / "train" / "dogs" / "gone.mp4").symlink_to(root / "nowhere.mp4")
    with caplog.at_level(logging.WARNING):
        dataset = open_videos(root, sequence_length=6)
    assert len(dataset) == 1 + 5
    assert "5 videos, 2 of them unreadable, 1 shorter than a clip of 6 frames" in caplog.text
    assert "broken.mp4" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no train/ folder"),
        ({"cats/a": 5}, "no train/ folder"),
        ({"train/cats/a": 3}, "no clip .*1 shorter than a clip of 4"),
        ({"test/cats/a": 5}, "no train/ folder"),
    ],
)
def test_folders_without_clips_are_user_errors(
    tmp_path: Path, content: dict[str, int], message: str
) -> None:
    write_video_folders(tmp_path, content)
    with pytest.raises(UserError, match=message):
        open_videos(tmp_path)


def test_wrong_splits_are_user_errors(root: Path) -> None:
    write_video_folders(root, {"test/birds/a": 5})
    with pytest.raises(UserError, match=r"birds has no counterpart"):
        open_videos(root, train=False)
    (root / "other" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="has no video"):
        open_videos(root / "other")


def test_a_video_that_shrinks_after_indexing_is_replaced_by_another_clip(root: Path) -> None:
    dataset = open_videos(root, sequence_length=5)
    assert frame_numbers(dataset[8]["video"]) == [5, 6, 7, 8, 9]
    write_video_folders(root, {"train/dogs/a": 6})
    assert dataset[8]["video"].shape == (3, 5, 16, 16)
    assert dataset.n_failed >= 1


# --- the index ----------------------------------------------------------------------------------


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are really opened."""
    names: list[str] = []
    original = video_index.frame_times

    def count(path: Path) -> np.ndarray:
        names.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(video_index, "frame_times", count)
    return names


def index(root: Path) -> list[int]:
    folder = root / "train"
    return index_videos(folder, list_videos(folder), show_progress=False).n_frames().tolist()


def test_the_index_is_kept_and_only_new_and_changed_files_are_opened(
    root: Path, probed: list[str]
) -> None:
    (root / "train" / "dogs" / "broken.mp4").write_bytes(b"no video")
    assert index(root) == [5, 6, 10, 0]
    assert sorted(probed) == ["a.mp4", "b.mp4", "broken.mp4", "c.mp4"]
    probed.clear()
    assert index(root) == [5, 6, 10, 0]
    assert probed == []
    write_video_folders(root, {"train/cats/c": 8, "train/dogs/new": 4})
    (root / "train" / "dogs" / "a.mp4").unlink()
    assert index(root) == [8, 6, 0, 4]
    assert sorted(probed) == ["c.mp4", "new.mp4"]


def test_one_index_serves_every_sequence_length(root: Path, probed: list[str]) -> None:
    assert len(open_videos(root, sequence_length=2)) == 4 + 5 + 9
    probed.clear()
    assert len(open_videos(root, sequence_length=5)) == 1 + 2 + 6
    assert probed == []


def test_where_the_data_cannot_be_written_the_index_goes_to_the_users_cache(
    root: Path, own_cache: Path, probed: list[str]
) -> None:
    blocker = root / "train" / CACHE_NAME / "in the way"  # stops even the superuser
    blocker.mkdir(parents=True)
    assert index(root) == [5, 6, 10]
    assert len(list((own_cache / "indexes").glob("*.npz"))) == 1
    assert [file.name for file in (root / "train").iterdir() if file.is_file()] == []
    probed.clear()
    assert index(root) == [5, 6, 10]
    assert probed == []


def test_without_any_place_for_the_index_the_data_are_read_all_the_same(
    root: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "train" / CACHE_NAME / "in the way").mkdir(parents=True)
    (own_cache / "indexes").write_text("in the way")
    assert index(root) == [5, 6, 10]
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("damage", ["text", "cut", "pickle", "other version", "missing array"])
def test_a_damaged_or_hostile_index_is_made_again(
    root: Path, probed: list[str], damage: str
) -> None:
    index(root)
    probed.clear()
    file = root / "train" / CACHE_NAME
    with np.load(file) as stored:
        content = dict(stored)
    if damage == "text":
        file.write_text("not an index")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    elif damage == "pickle":
        with file.open("wb") as out:
            np.savez(out, **{**content, "counts": np.array([print], dtype=object)})
    elif damage == "other version":
        with file.open("wb") as out:
            np.savez(out, **{**content, "version": np.array(0)})
    else:
        del content["sizes"]
        with file.open("wb") as out:
            np.savez(out, **content)
    assert index(root) == [5, 6, 10]
    assert len(probed) == 3
