"""The prepare scripts: what they lay out, that running again changes nothing, what they skip."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from load_script import load_script
from small_data import data_args, write_frame_folders, write_video_folders
from small_games import frame, record
from small_sound import drum_paths, frame_stft, write_drums, write_pickle, write_tone_video

from tats.data import FrameDataset, VideoData, VideoDataset
from tats.data.decoding import read_video
from tats.data.sound import read_sound
from tats.data.stft import StftDataset, read_stft
from tats.video_io import write_video


def run(script: str, capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    load_script(f"scripts/{script}.py").main([*map(str, arguments)])
    return json.loads(capsys.readouterr().out)


def refused(script: str, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        load_script(f"scripts/{script}.py").main([*map(str, arguments)])
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


def tree(folder: Path) -> dict[str, int]:
    """Every file and link below a folder, with the time it was made."""
    paths = [Path(parent, name) for parent, dirs, files in os.walk(folder) for name in dirs + files]
    return {
        path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns
        for path in paths
        if path.is_symlink() or path.is_file()
    }


def check_idempotent(script: str, capsys, out: Path, *arguments: Any) -> dict[str, Any]:
    """Dry run, run, run again: nothing, everything, nothing new."""
    dry = run(script, capsys, "--out", out, "--dry_run", *arguments)
    assert dry["dry_run"] and not out.exists()
    first = run(script, capsys, "--out", out, *arguments)
    assert first["new"] == dry["new"] > 0 and first["skipped"] == dry["skipped"]
    made = tree(out)
    again = run(script, capsys, "--out", out, *arguments)
    assert again["new"] == 0 and again["already_there"] == first["new"]
    assert tree(out) == made
    return first


# --- UCF-101 ----------------------------------------------------------------------------------


@pytest.fixture
def ucf(tmp_path: Path) -> list[Any]:
    names = {f"{c}/v_{c}_g0{g}_c01": 5 for c in ("Archery", "Biking") for g in (1, 8)}
    write_video_folders(tmp_path / "UCF-101", names, suffix=".avi")
    lists = tmp_path / "lists"
    lists.mkdir()
    for number, (test, train) in (("01", (1, 8)), ("02", (8, 1))):
        lines = [f"{c}/v_{c}_g0{{}}_c01.avi" for c in ("Archery", "Biking")]
        numbered = [line.format(train) + f" {i + 1}" for i, line in enumerate(lines)]
        gone = "Archery/v_Archery_g09_c01.avi 1"
        (lists / f"trainlist{number}.txt").write_text("\r\n".join([*numbered, gone, ""]))
        (lists / f"testlist{number}.txt").write_text("\n".join(x.format(test) for x in lines))
    return ["--videos", tmp_path / "UCF-101", "--lists", lists]


def test_ucf101_is_divided_by_the_list_and_linked(ucf, tmp_path, capsys):
    out = tmp_path / "out"
    report = check_idempotent("prepare_ucf101", capsys, out, *ucf)
    assert (report["train_listed"], report["test_listed"], report["new"]) == (3, 2, 4)
    assert report["skipped"]["missing"]["count"] == 1
    assert "v_Archery_g09" in report["skipped"]["missing"]["such_as"][0]
    link = out / "train" / "Biking" / "v_Biking_g08_c01.avi"
    assert link.is_symlink() and link.resolve().parent.parent.name == "UCF-101"
    dataset = VideoDataset(
        root=out, train=False, sequence_length=5, resolution=16, show_progress=False
    )
    assert dataset.class_names == ["Archery", "Biking"] and len(dataset) == 2


def test_ucf101s_other_lists_divide_otherwise(ucf, tmp_path, capsys):
    run("prepare_ucf101", capsys, "--out", tmp_path / "two", "--list", "02", *ucf)
    assert (tmp_path / "two" / "train" / "Biking" / "v_Biking_g01_c01.avi").exists()


def test_a_link_to_something_else_is_not_replaced(ucf, tmp_path, capsys):
    mine = tmp_path / "out" / "train" / "Biking" / "v_Biking_g08_c01.avi"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    line = refused("prepare_ucf101", capsys, "--out", tmp_path / "out", *ucf)
    assert "is there already" in line and mine.read_bytes() == b"mine"


@pytest.mark.parametrize("line", ["../../etc/passwd 1", "/etc/passwd 1", "just-a-name.avi"])
def test_a_list_that_leads_elsewhere_is_refused(ucf, tmp_path, capsys, line):
    (tmp_path / "lists" / "trainlist01.txt").write_text(line)
    assert "expected CLASS/video.avi" in refused(
        "prepare_ucf101", capsys, "--out", tmp_path / "out", *ucf
    )
    assert not (tmp_path / "out").exists()


# --- Sky Time-lapse ---------------------------------------------------------------------------


def test_sky_clips_are_linked_folder_by_folder(tmp_path, capsys):
    source, out = tmp_path / "sky", tmp_path / "out"
    lengths = {"sky_train/a/a_1": 18, "sky_train/a/a_2": 17, "sky_train/b": 3, "sky_test/c": 16}
    write_frame_folders(source, lengths)
    write_frame_folders(source, {"sky_train/odd": 16})
    odd = source / "sky_train" / "odd"
    (odd / "frame_00000.png").rename(odd / "cover.png")
    report = check_idempotent("prepare_sky_timelapse", capsys, out, "--frames", source)
    assert (report["train_clips"], report["test_clips"]) == (2, 1)
    counts = {reason: entry["count"] for reason, entry in report["skipped"].items()}
    assert counts == {"shorter than 16 frames": 1, "frames without a number after the last _": 1}
    options = {"sequence_length": 16, "resolution": 16}
    assert [len(v) for v in FrameDataset(root=out, train=True, **options).videos] == [18, 17]
    assert len(FrameDataset(root=out, train=False, **options)) == 1
    assert "has no sky_train/" in refused(
        "prepare_sky_timelapse", capsys, "--out", out, "--frames", source / "sky_test"
    )


# --- Taichi-HD --------------------------------------------------------------------------------

HEADER = "video_id,start,end,bbox,fps,width,height,partition\n"


@pytest.fixture
def taichi(tmp_path: Path) -> list[Any]:
    """A source video at twice the annotators' frame rate and size; its left half is red."""
    frames = np.zeros((60, 32, 64, 3), np.uint8)
    frames[:, :, :32, 0] = 250
    frames[..., 2] = (4 * np.arange(60))[:, None, None]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "abc.mp4", frames, fps=20, crf=1)
    write_video(tmp_path / "videos" / "cut#000003#000009.mp4", frames[:6], fps=10)
    rows = [
        "abc,10,20,0-0-16-16,10.0,32,16,train",
        "abc,5,15,16-0-32-16,10,32,16,test",
        "abc,20,90,0-0-16-16,10,32,16,train",
        "cut,3,9,0-0-16-16,10,32,16,train",
        "gone,3,9,0-0-16-16,10,32,16,train",
    ]
    (tmp_path / "meta.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return ["--videos", tmp_path / "videos", "--metadata", tmp_path / "meta.csv", "--size", 16]


def test_taichi_clips_are_cut_at_their_time_and_place(taichi, tmp_path, capsys):
    out = tmp_path / "out"
    report = run("prepare_taichi", capsys, "--out", out, *taichi)
    assert report["new"] == 3 and report["listed"] == 5
    assert report["skipped"]["source video not there"]["such_as"] == ["gone#000003#000009.mp4"]
    assert report["skipped"]["unreadable"]["count"] == 1  # ends too early
    left = read_video(out / "train" / "abc#000010#000020.mp4").astype(int)
    right = read_video(out / "test" / "abc#000005#000015.mp4").astype(int)
    assert left.shape == right.shape == (20, 16, 16, 3)
    assert left[..., 0].mean() > 200 and right[:, :, 4:, 0].mean() < 40
    assert abs(left[0, ..., 2].mean() - 4 * 20) < 12  # frame 10 at 10 a second is 20 at 20
    assert (out / "train" / "cut#000003#000009.mp4").is_symlink()
    made = tree(out)
    again = run("prepare_taichi", capsys, "--out", out, *taichi)
    assert (again["new"], again["already_there"]) == (0, 3) and tree(out) == made


def test_a_dry_run_of_taichi_writes_nothing(taichi, tmp_path, capsys):
    report = run("prepare_taichi", capsys, "--out", tmp_path / "out", "--dry_run", *taichi)
    assert report["new"] == 4 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "row",
    [
        "abc,10,20,0-0-16,10,32,16,train",
        "abc,20,10,0-0-16-16,10,32,16,train",
        "../abc,10,20,0-0-16-16,10,32,16,train",
        "abc,10,20,0-0-16-16,10,32,16,both",
        "abc,x,20,0-0-16-16,10,32,16,train",
    ],
)
def test_a_malformed_row_is_named(taichi, tmp_path, capsys, row):
    (tmp_path / "meta.csv").write_text(HEADER + row + "\n")
    line = refused("prepare_taichi", capsys, "--out", tmp_path / "out", *taichi)
    assert "meta.csv line 2 is malformed" in line


# --- MUGEN ------------------------------------------------------------------------------------


def write_mugen(source: Path) -> None:
    """The released layout, with paths of another machine; one game of three is not there."""
    for split in ("train", "val", "test"):
        names = [f"jsons/{split}_{number}.json" for number in range(3)]
        for name in names[:2]:
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record([frame() for _ in range(8)])))
        data = [
            {
                "video": {"id": name, "json_file": name, "num_frames": 8},
                "annotations": [{"type": "manual", "text": "Mugen stands still"}],
            }
            for name in names
        ]
        index = {"metadata": {"data_folder": "/datasets01/coinrun"}, "data": data}
        (source / "release").mkdir(exist_ok=True)
        (source / "release" / f"{split}.json").write_text(json.dumps(index))


def test_mugens_games_are_found_and_read(tmp_path, capsys):
    source, out = tmp_path / "jsons", tmp_path / "out"
    write_mugen(source)
    report = check_idempotent("prepare_mugen", capsys, out, "--source", source)
    assert (report["train_clips"], report["val_clips"], report["test_clips"]) == (2, 2, 2)
    assert report["skipped"]["game not there"]["count"] == 3
    data = VideoData(data_args(out / "coinrun", sequence_length=4))
    assert len(data.dataset(train=True)) == len(data.dataset(train=False)) == 2
    assert data.dataset(train=True)[0]["video"].shape == (3, 4, 16, 16)


def test_a_folder_without_mugens_index_is_refused(tmp_path, capsys):
    line = refused("prepare_mugen", capsys, "--out", tmp_path / "out", "--source", tmp_path)
    assert "has no release/train.json" in line
    write_mugen(tmp_path / "jsons")
    flags = ["--source", tmp_path / "jsons", "--assets", tmp_path / "jsons"]
    assert "--assets" in refused("prepare_mugen", capsys, "--out", tmp_path / "out", *flags)


# --- AudioSet-Drums, and videos with sound ------------------------------------------------------


def released_drums(tmp_path: Path) -> Path:
    source = write_drums(tmp_path / "AudioSet_Drums", layout="zip")
    stft, _ = drum_paths(source, "zip", "train", "alone")
    write_pickle(stft, frame_stft())
    (source / "readme.txt").write_text("hello")
    return source


def open_drums(root: Path, train: bool = True) -> StftDataset:
    return StftDataset(
        root=root, train=train, sequence_length=16, resolution=16, show_progress=False
    )


def test_the_released_drums_are_linked_into_our_layout(tmp_path, capsys):
    source, out = released_drums(tmp_path), tmp_path / "out"
    report = check_idempotent("prepare_audioset_drums", capsys, out, "--source", source)
    assert report["new"] == 8 and report["skipped"]["no mate"]["count"] == 1
    assert (out / "video" / "train" / "clip0.mp4").is_symlink()
    assert len(open_drums(out)) == 2 and "stft" in open_drums(out, train=False)[0]


def test_the_released_archive_is_unpacked_and_nothing_leaves_the_folder(tmp_path, capsys):
    source, out = released_drums(tmp_path), tmp_path / "out"
    with zipfile.ZipFile(tmp_path / "drums.zip", "w") as archive:
        for path in sorted(source.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("../../train/mp4/../escape.mp4", b"hostile")
        archive.writestr("AudioSet_Drums/train/mp4/../../../escape2.mp4", b"hostile")
    report = check_idempotent(
        "prepare_audioset_drums", capsys, out, "--zip", tmp_path / "drums.zip"
    )
    assert report["new"] == 8
    assert not list(tmp_path.rglob("escape*"))
    assert len(open_drums(out)) == 2
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    line = refused("prepare_audioset_drums", capsys, "--out", out, "--zip", tmp_path / "bad.zip")
    assert "bad.zip cannot be read" in line


def test_any_videos_with_sound_get_their_spectrograms(tmp_path, capsys):
    videos, out = tmp_path / "videos", tmp_path / "out"
    write_tone_video(videos / "a" / "long.mp4", 2505.7, n_frames=100)
    write_tone_video(videos / "short.mp4", 440.0, n_frames=10)
    write_tone_video(videos / "silent.mp4", None)
    (videos / "broken.mp4").write_bytes(b"no video" * 50)
    flags = ["--videos", videos, "--frames", 30, "--size", 16]
    report = check_idempotent("prepare_audioset_drums", capsys, out, *flags)
    assert report["new"] == 3  # of 30 frames each; the rest of 10 is too short
    reasons = {reason: entry["count"] for reason, entry in report["skipped"].items()}
    assert reasons == {"shorter than 16 frames": 1, "no sound": 1, "unreadable": 1}
    assert sorted(p.name for p in (out / "video" / "train").glob("*.mp4")) == [
        "a-long_0000.mp4",
        "a-long_0001.mp4",
    ]
    stft = read_stft(out / "stft" / "test" / "a-long_0002.pickle")
    assert stft.shape == (30, 45, 17)
    assert (stft[2:-2].argmax(axis=1) == 10).all()
    assert len(read_sound(out / "video" / "test" / "a-long_0002.mp4").samples) >= 30 * 735
    assert open_drums(out)[0]["stft"].shape == (1, 16, 64, 16)


def test_a_folder_that_is_divided_stays_so(tmp_path, capsys):
    videos = tmp_path / "videos"
    write_tone_video(videos / "train" / "pong" / "1.mp4", 440.0)
    write_tone_video(videos / "test" / "pong" / "2.mp4", 880.0)
    flags = ["--videos", videos, "--size", 16]
    run("prepare_audioset_drums", capsys, "--out", tmp_path / "out", *flags)
    assert (tmp_path / "out" / "stft" / "train" / "pong-1.pickle").is_file()
    assert (tmp_path / "out" / "stft" / "test" / "pong-2.pickle").is_file()


def test_a_video_of_another_rate_is_brought_to_thirty_frames_a_second(tmp_path, capsys):
    levels = (8 * np.arange(20)).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (20, 16, 16, 3))
    sound = (np.zeros(2 * 22050, np.float32) + 0.1, 22050)
    write_video(tmp_path / "a.mp4", frames, 10, sound, crf=1)
    flags = ["--videos", tmp_path / "a.mp4", "--size", 16]
    run("prepare_audioset_drums", capsys, "--out", tmp_path / "out", *flags)
    shown = read_video(tmp_path / "out" / "video" / "train" / "a.mp4").mean(axis=(1, 2, 3)) / 8
    assert np.allclose(shown, np.arange(60) // 3, atol=0.6)
