"""Clips on disk and the conversion between model and file values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tats.errors import UserError
from tats.paths import atomic_path
from tats.video_io import (
    Sound,
    to_float,
    to_uint8,
    video_grid,
    write_frames,
    write_npy,
    write_video,
)

av = pytest.importorskip("av")


def moving_ramp(n_frames: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    """Smooth frames uint8 (T, H, W, 3) that differ from each other."""
    ramp = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    return (ramp + 4 * np.arange(n_frames)[:, None, None, None]).astype(np.uint8)


def read_all(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_float_video_is_clamped_and_truncated_to_uint8() -> None:
    video = torch.tensor([-2.0, -0.5, -0.5 + 2.9 / 255, 0.0, 0.5, 3.0]).reshape(1, 6, 1, 1)
    assert to_uint8(video).flatten().tolist() == [0, 0, 2, 127, 255, 255]


def test_channels_move_last_in_files_and_first_in_models() -> None:
    video = torch.rand(2, 3, 4, 5, 6) - 0.5  # (B, C, T, H, W)
    frames = to_uint8(video)
    assert frames.shape == (2, 4, 5, 6, 3)
    assert (to_float(frames) - video).abs().max() <= 1 / 255 + 1e-6


def test_half_precision_video_keeps_its_full_range() -> None:
    assert to_uint8(torch.full((3, 1, 1, 1), 0.5, dtype=torch.bfloat16)).unique().tolist() == [255]


def test_grid_fills_rows_first_and_pads_one_pixel_after_each_clip() -> None:
    clips = np.arange(1, 4, dtype=np.uint8)[:, None, None, None, None] * np.ones(
        (3, 2, 2, 2, 3), np.uint8
    )
    expected = [
        [1, 1, 0, 2, 2, 0, 0],
        [1, 1, 0, 2, 2, 0, 0],
        [0] * 7,
        [3, 3, 0, 0, 0, 0, 0],
        [3, 3, 0, 0, 0, 0, 0],
        [0] * 7,
        [0] * 7,
    ]
    assert video_grid(clips)[1, :, :, 2].tolist() == expected
    assert video_grid(clips, nrow=1).shape == (2, 4, 10, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm", ".mov"])
def test_written_video_reads_back_with_all_frames_and_nearly_the_same_pixels(
    tmp_path: Path, suffix: str
) -> None:
    frames = moving_ramp()
    write_video(tmp_path / f"clip{suffix}", frames, fps=25)
    read = read_all(tmp_path / f"clip{suffix}")
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 3


def test_odd_sizes_are_padded_by_one_row_and_column(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", moving_ramp(3, 33, 47), fps=8)
    assert read_all(tmp_path / "odd.mp4").shape == (3, 34, 48, 3)


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    frames = moving_ramp(5)
    write_video(tmp_path / "clip.mp4", (frame for frame in frames), fps=8)
    assert len(read_all(tmp_path / "clip.mp4")) == 5


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
@pytest.mark.parametrize("kind", ["float mono", "int16 stereo"])
def test_sound_is_written_beside_the_picture(tmp_path: Path, suffix: str, kind: str) -> None:
    tone = np.sin(np.arange(16000) * 0.2)
    stereo = np.stack([tone, tone], axis=1)
    samples = tone if kind == "float mono" else (stereo * 32767).astype(np.int16)
    path = tmp_path / f"clip{suffix}"
    write_video(path, moving_ramp(10), fps=10, audio=Sound(samples, 16000))
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        heard = np.concatenate(
            [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
        )
    assert len(heard) / rate == pytest.approx(1.0, abs=0.15)
    spectrum = np.abs(np.fft.rfft(heard))
    pitch = spectrum.argmax() * rate / len(heard)  # Hz
    assert pitch == pytest.approx(0.2 * 16000 / (2 * np.pi), rel=0.01)


def test_gif_repeats_all_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.gif", moving_ramp(4), fps=10)
    assert len(read_all(tmp_path / "clip.gif")) == 4


def test_frames_are_numbered_pngs_without_loss(tmp_path: Path) -> None:
    from PIL import Image

    frames = moving_ramp(3)
    paths = write_frames(tmp_path / "frames", frames, first=7)
    assert [path.name for path in paths] == [f"frame_{n:05d}.png" for n in (7, 8, 9)]
    assert (np.asarray(Image.open(paths[1])) == frames[1]).all()


def test_npy_round_trips(tmp_path: Path) -> None:
    write_npy(tmp_path / "clips.npy", torch.arange(6).reshape(2, 3))
    assert np.load(tmp_path / "clips.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["result.txt"]
    assert path.read_text() == "old"


def test_video_with_a_frame_of_another_type_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_video(tmp_path / "clip.mp4", [moving_ramp(1)[0].astype(float)], fps=8)
    assert not list(tmp_path.iterdir())


def test_unwritable_and_unknown_paths_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_video(tmp_path / "file" / "clip.mp4", moving_ramp(1), fps=8)
    with pytest.raises(UserError, match="unknown video suffix"):
        write_video(tmp_path / "clip.xyz", moving_ramp(1), fps=8)
