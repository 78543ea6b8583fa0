"""From flags to batches, and what is said when the flags do not fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from tats.data import VideoData
from tats.errors import UserError, one_line_errors
from tests.small_data import (
    data_args,
    frame_numbers,
    write_frame_folders,
    write_hdf5,
    write_video_folders,
)

VIDEOS = {"train/cats/a": 7, "train/dogs/b": 6, "test/cats/c": 6, "test/dogs/d": 6}


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("av")
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    write_video_folders(tmp_path / "data", VIDEOS)
    return tmp_path / "data"


def test_video_folders_give_clips_and_labels(videos: Path) -> None:
    data = VideoData(data_args(videos))
    assert (data.n_classes, data.class_names) == (2, ["cats", "dogs"])
    batches = list(data.train_dataloader())
    assert [len(batch["label"]) for batch in batches] == [2, 2, 2, 1]
    assert batches[0]["video"].shape == (2, 3, 4, 16, 16)
    assert batches[0]["video"].dtype == torch.float32
    assert batches[0]["label"].dtype == torch.int64
    assert torch.cat([batch["label"] for batch in batches]).bincount().tolist() == [4, 3]


def test_validation_reads_the_test_split_alike_in_every_epoch(videos: Path) -> None:
    loader = VideoData(data_args(videos)).val_dataloader()
    first = torch.cat([batch["video"] for batch in loader])
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert len(first) == 6
    assert torch.equal(torch.cat([batch["video"] for batch in loader]), first)
    tested = VideoData(data_args(videos)).test_dataloader()
    assert torch.equal(torch.cat([batch["video"] for batch in tested]), first)


def test_the_order_depends_on_the_seed_and_the_epoch_alone(videos: Path) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = VideoData(data_args(videos, seed=seed)).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [frame_numbers(clip) for batch in loader for clip in batch["video"]]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on small runs
def test_lightning_moves_the_epoch_on_and_the_same_run_sees_the_same_clips(videos: Path) -> None:
    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[list[int]] = []
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            starts = [frame_numbers(clip)[0] for clip in batch["video"]]
            self.seen.append([*starts, *batch["label"].tolist()])
            return self.weight * 0

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def run(n_workers: int) -> list[list[int]]:
        model = Recorder()
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=VideoData(data_args(videos, num_workers=n_workers)))
        return model.seen

    seen = run(0)
    assert len(seen) == 8
    assert seen[:4] != seen[4:]
    assert seen == run(2)


def test_a_balanced_sampler_needs_labels(tmp_path: Path, videos: Path) -> None:
    data = VideoData(data_args(videos, balanced_sampler=True))
    assert len(list(data.train_dataloader())) == 4
    write_hdf5(tmp_path / "videos.h5", {"train": [6], "test": [6]})
    with pytest.raises(UserError, match="--balanced_sampler needs class labels"):
        VideoData(data_args(tmp_path / "videos.h5", balanced_sampler=True)).train_dataloader()


def test_frame_folders_and_hdf5_files_are_told_apart_by_flags_and_path(tmp_path: Path) -> None:
    write_frame_folders(tmp_path / "frames", {"train/a": 5, "test/b": 5})
    batch = next(
        iter(VideoData(data_args(tmp_path / "frames", image_folder=True)).val_dataloader())
    )
    assert {key: tuple(value.shape) for key, value in batch.items()} == {"video": (1, 3, 4, 16, 16)}
    write_hdf5(tmp_path / "videos.h5", {"train": [5, 6], "test": [5]})
    data = VideoData(data_args(tmp_path / "videos.h5"))
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 3, 4, 16, 16)
    write_hdf5(tmp_path / "codes.h5", {"train": [5, 6], "test": [5]}, codes_side=5)
    args = data_args(tmp_path / "codes.h5", vtokens=True, resolution=5, spatial_length=3)
    batch = next(iter(VideoData(args).train_dataloader()))
    assert batch["video"].shape == (2, 4, 3, 3)
    assert batch["cbox"].shape == (2, 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data_path": None}, "--data_path is missing"),
        ({"data_path": "nowhere"}, "--data_path got nowhere, which does not exist"),
        ({"batch_size": 0}, "--batch_size got 0"),
        ({"sequence_length": 0}, "--sequence_length got 0"),
        ({"sequence_length": 8}, "no clip"),
        ({"sample_every_n_frames": 0}, "--sample_every_n_frames got 0"),
        ({"seed": -1}, "--seed got -1"),
        ({"image_channels": 1}, "--image_channels got 1"),
        ({"image_folder": True}, "has no image"),
        ({"vtokens": True}, "--vtokens cannot be used"),
        ({"text_cond": True}, "--text_cond cannot be used"),
    ],
)
def test_flags_that_do_not_fit_the_videos_are_user_errors(
    videos: Path, flags: dict[str, Any], message: str
) -> None:
    args = data_args(videos)
    with pytest.raises(UserError, match=message) as caught:
        VideoData(type(args)(**{**vars(args), **flags})).prepare_data()
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_a_semantic_map_of_an_hdf5_file_are_user_errors(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        VideoData(data_args(tmp_path / "empty")).prepare_data()
    write_hdf5(tmp_path / "videos.h5", {"train": [6], "test": [6]})
    with pytest.raises(UserError, match="--smap_cond"):
        VideoData(data_args(tmp_path / "videos.h5", smap_cond=18)).prepare_data()


@pytest.mark.parametrize("kind", ["hdf5", "frames"])
def test_data_without_labels_say_so(tmp_path: Path, kind: str) -> None:
    if kind == "hdf5":
        write_hdf5(tmp_path / "data", {"train": [6], "test": [6]})
    else:
        write_frame_folders(tmp_path / "data", {"train/a": 5, "test/b": 5})
    data = VideoData(data_args(tmp_path / "data", image_folder=kind == "frames"))
    with pytest.raises(UserError, match=r"no class labels; .*--unconditional"):
        _ = data.n_classes


def test_construction_reads_nothing(tmp_path: Path) -> None:
    VideoData(data_args(tmp_path / "nowhere"))


def test_an_error_in_a_data_loading_process_is_still_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frame_folders(tmp_path, {"train/a": 4, "test/b": 4})
    data = VideoData(data_args(tmp_path, image_folder=True, num_workers=1))
    data.prepare_data()
    for frame in (tmp_path / "train" / "a").iterdir():
        frame.write_bytes(b"no image any more")

    @one_line_errors
    def main(argv: Any = None) -> None:
        next(iter(data.train_dataloader()))

    with pytest.raises(SystemExit):
        main()
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "error: --data_path: 5 clips in a row cannot be read" in last_line


def test_the_home_folder_may_be_written_as_a_tilde(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(videos.parent))
    assert VideoData(data_args("~/data")).class_names == ["cats", "dogs"]
