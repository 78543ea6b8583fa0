#!/usr/bin/env python
"""Lay out videos with sound for sound-conditioned models: AudioSet-Drums, or your own videos.

    python scripts/prepare_audioset_drums.py --zip AudioSet_Drums.zip --out data/drums
    python scripts/prepare_audioset_drums.py --source AudioSet_Drums --out data/drums   # unpacked
    python scripts/prepare_audioset_drums.py --videos my_videos --out data/mine

Writes ``OUT/video/{train,test}/x.mp4`` beside ``OUT/stft/{train,test}/x.pickle``. Of ``--videos``,
a folder with ``train/`` and ``test/`` keeps that division; otherwise the last fifth of every
video's pieces is for testing. They are cut into pieces of 90 frames at 30 frames a second (3 s),
and the spectrograms of each piece, (90, 45, 17) in [0, 1], are computed as ``tats/data/sound.py``
says. Run again, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from preparing import Account, existing_folder, new_parser, with_progress

from tats.data.decoding import (
    VIDEO_SUFFIXES,
    DecodeError,
    frame_rate,
    frame_times,
    frames_at_rate,
    read_frames,
)
from tats.data.sound import FRAME_RATE, cut_sound, read_sound, spectrogram
from tats.data.stft import STFT_SUFFIXES
from tats.data.transforms import scaled_size
from tats.errors import UserError, one_line_errors
from tats.paths import atomic_path
from tats.video_io import Sound, write_video

SPLITS = ("train", "test")
ZIP_FOLDERS = {"mp4": ("video", VIDEO_SUFFIXES), "stft_pickle": ("stft", STFT_SUFFIXES)}
TEST_SHARE = 0.2
MIN_FRAMES = 16  # a shorter rest of a video is left out
FRAMES_AT_ONCE = 32  # decoded together: a whole video may be gigabytes


class Piece(NamedTuple):
    """A part of a video: frames [start, stop) of its retimed self."""

    video: Path
    split: str
    name: str
    start: int
    stop: int


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = new_parser("Lay out videos with sound and the spectrograms of their frames.")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--zip", type=Path, help="the released AudioSet_Drums.zip")
    given.add_argument("--source", type=Path, help="the folder it was unpacked into")
    given.add_argument("--videos", type=Path, help="a video with sound, or a folder of some")
    parser.add_argument("--frames", type=int, default=90, help="[frames] of a piece of --videos")
    parser.add_argument("--size", type=int, default=96, help="[pixels] shorter side of a piece")
    return parser


# --- the released files -----------------------------------------------------------------------


def released_place(member: str) -> Path | None:
    """Say where a file of the released archive goes, below ``--out``; None for other files."""
    parts = PurePosixPath(member).parts[-3:]
    if len(parts) < 3 or parts[0] not in SPLITS or parts[1] not in ZIP_FOLDERS:
        return None
    folder, suffixes = ZIP_FOLDERS[parts[1]]
    fits = PurePosixPath(parts[2]).suffix.lower() in suffixes and not parts[2].startswith(".")
    return Path(folder, parts[0], parts[2]) if fits else None


def without_mates(places: Sequence[Path]) -> set[Path]:
    """Find the videos without spectrograms, and the other way round."""
    of_kind: dict[tuple[str, str, str], Path] = {
        (place.parts[0], place.parts[1], place.stem): place for place in places
    }
    other = {"video": "stft", "stft": "video"}
    return {
        place
        for (kind, split, stem), place in of_kind.items()
        if (other[kind], split, stem) not in of_kind
    }


def unpack(path: Path, out: Path, account: Account) -> None:
    """Unpack the released archive into our layout."""
    try:
        with zipfile.ZipFile(path) as archive:
            places = {name: released_place(name) for name in archive.namelist()}
            found = {name: place for name, place in places.items() if place is not None}
            alone = without_mates(list(found.values()))
            for name, place in with_progress(sorted(found.items()), "file"):
                if place in alone:
                    account.skip("no mate", name)
                    continue
                target = out / place

                def write(name: str = name, target: Path = target) -> None:
                    with atomic_path(target) as temporary:
                        temporary.write_bytes(archive.read(name))

                account.make(target, write)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"--zip {path} cannot be read ({error})") from error
    if not found:
        raise UserError(f"--zip {path} has no {{train,test}}/{{mp4,stft_pickle}}/ files")


def link_released(source: Path, out: Path, account: Account) -> None:
    """Link the unpacked archive's files into our layout."""
    existing_folder(source, "source", "the unpacked AudioSet_Drums")
    files = {path: released_place(path.as_posix()) for path in sorted(source.rglob("*"))}
    found = {path: place for path, place in files.items() if place is not None}
    if not found:
        raise UserError(f"--source {source} has no {{train,test}}/{{mp4,stft_pickle}}/ files")
    alone = without_mates(list(found.values()))
    for path, place in with_progress(found.items(), "file"):
        if place in alone:
            account.skip("no mate", path)
        else:
            account.link(path, out / place)


# --- any videos -------------------------------------------------------------------------------


def list_pieces(videos: Path, n_frames: int, account: Account) -> Iterator[Piece]:
    """Divide videos into pieces and these into training and test."""
    root = videos.parent if videos.is_file() else videos
    files = [videos] if videos.is_file() else sorted(videos.rglob("*"))
    files = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    if not files:
        raise UserError(f"--videos {videos} has no video; expected {', '.join(VIDEO_SUFFIXES)}")
    divided = all((root / split).is_dir() for split in SPLITS)
    for path in files:
        try:
            length = int(len(frame_times(path)) / frame_rate(path) * FRAME_RATE + 0.5)
        except DecodeError as error:
            account.skip("unreadable", error)
            continue
        starts = [s for s in range(0, length, n_frames) if length - s >= MIN_FRAMES]
        if not starts:
            account.skip(f"shorter than {MIN_FRAMES} frames", path)
        n_test = max(1, round(TEST_SHARE * len(starts)))
        relative = path.relative_to(root).with_suffix("")
        for number, start in enumerate(starts):
            split = "test" if number >= len(starts) - n_test and len(starts) > 1 else "train"
            if divided:
                split, *rest = relative.parts
                if split not in SPLITS:
                    continue
                name = "-".join(rest)
            else:
                name = "-".join(relative.parts)
            name = f"{name}_{number:04d}" if len(starts) > 1 else name
            yield Piece(path, split, name, start, min(start + n_frames, length))


def write_pieces(pieces: Sequence[Piece], out: Path, size: int, account: Account) -> None:
    """Write every piece's video and spectrograms; videos without sound are skipped."""
    sound_of: tuple[Path | None, Sound | None] = (None, None)  # of the video at hand
    for piece in with_progress(pieces, "piece"):
        video = out / "video" / piece.split / f"{piece.name}.mp4"
        stft = out / "stft" / piece.split / f"{piece.name}.pickle"
        if video.exists() and stft.exists():
            account.n_there += 1
            continue
        try:
            if sound_of[0] != piece.video:
                sound_of = (piece.video, read_sound(piece.video))
        except DecodeError as error:
            sound_of = (piece.video, None)
            account.skip("no sound", error)
        if sound_of[1] is None:
            continue
        account.n_new += 1
        if account.dry_run:
            continue
        try:
            frames = retimed_frames(piece.video, piece.start, piece.stop, size)
        except DecodeError as error:
            account.n_new -= 1
            account.skip("unreadable", error)
            continue
        sound = cut_sound(sound_of[1], piece.start, len(frames))
        write_video(video, frames, FRAME_RATE, sound, crf=12, keyframe_every=16)
        with atomic_path(stft) as temporary:
            temporary.write_bytes(pickle.dumps(spectrogram(sound.samples, len(frames))))


def retimed_frames(path: Path, start: int, stop: int, size: int) -> np.ndarray:
    """Read the frames a video shows at 1/30 s steps, their shorter side at ``size`` pixels.

    Returns:
        uint8 (stop - start, H, W, 3).
    """
    times = frame_times(path)
    wanted = frames_at_rate(len(times), frame_rate(path), FRAME_RATE, start, stop)
    first, last = int(wanted[0]), int(wanted[-1]) + 1
    scaled = []
    for begin in range(first, last, FRAMES_AT_ONCE):
        frames = read_frames(path, times, begin, min(FRAMES_AT_ONCE, last - begin))
        target = scaled_size(frames.shape[1], frames.shape[2], size)
        video = torch.from_numpy(frames).permute(0, 3, 1, 2).float()  # (T, C, H, W)
        video = F.interpolate(video, size=target, mode="bilinear", antialias=True)
        scaled.append(video.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(scaled)[wanted - first]


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Lay the data set out and print one line of JSON about it."""
    args = build_parser().parse_args(argv)
    if args.frames < MIN_FRAMES or args.size < 1:
        raise UserError(
            f"--frames {args.frames} --size {args.size}: expected {MIN_FRAMES} frames or more, "
            "1 pixel or more"
        )
    account = Account(dry_run=args.dry_run)
    if args.zip:
        unpack(args.zip.expanduser(), args.out, account)
    elif args.source:
        link_released(args.source.expanduser(), args.out, account)
    else:
        videos = args.videos.expanduser()
        if not videos.exists():
            raise UserError(f"--videos got {videos}, which does not exist")
        pieces = list(list_pieces(videos, args.frames, account))
        write_pieces(pieces, args.out, args.size, account)
    account.report(data_path=str(args.out))


if __name__ == "__main__":
    main()
