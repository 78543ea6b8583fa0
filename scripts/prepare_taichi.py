#!/usr/bin/env python
"""Cut the Taichi-HD clips out of their source videos, as the published metadata says.

    python scripts/prepare_taichi.py --videos youtube --metadata taichi-metadata.csv --out data/tc

``--metadata`` is taichi-metadata.csv of first-order-model's data/taichi-loading. ``--videos`` holds
the source videos, ``VIDEO_ID.mp4``, or clips its loader has cut already
(``VIDEO_ID#start#end.mp4``), which are linked. Makes ``OUT/{train,test}/VIDEO_ID#start#end.mp4``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from preparing import Account, existing_folder, new_parser, with_progress

from tats.data.decoding import (
    VIDEO_SUFFIXES,
    DecodeError,
    frame_rate,
    frame_times,
    frames_at_rate,
    read_frames,
)
from tats.errors import UserError, one_line_errors
from tats.video_io import write_video

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition")
SPLITS = ("train", "test")
FRAMES_AT_ONCE = 16  # decoded together: source videos are large


class TaichiClip(NamedTuple):
    """One row of the metadata; times and places are in the video the annotators saw."""

    video_id: str
    start: int  # frame
    end: int  # one past the last frame
    box: tuple[int, int, int, int]  # left, top, right, bottom
    fps: float
    width: float
    height: float
    split: str

    @property
    def name(self) -> str:
        return f"{self.video_id}#{self.start:06d}#{self.end:06d}.mp4"


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = new_parser("Cut the Taichi-HD clips as the published metadata says.")
    parser.add_argument("--videos", type=Path, required=True, help="source videos, or cut clips")
    parser.add_argument("--metadata", type=Path, required=True, help="taichi-metadata.csv")
    parser.add_argument("--size", type=int, default=256, help="[pixels] side of a clip")
    return parser


def read_metadata(path: Path) -> list[TaichiClip]:
    """Read the published table.

    Raises:
        UserError: it cannot be read, or a row is malformed.
    """
    try:
        with path.expanduser().open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise UserError(
                    f"--metadata {path} has the columns {reader.fieldnames}; expected "
                    f"{', '.join(COLUMNS)}"
                )
            return [_read_row(row, f"--metadata {path} line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--metadata {path} cannot be read ({error})") from error


def _read_row(row: dict[str, str], place: str) -> TaichiClip:
    try:
        left, top, right, bottom = (int(float(number)) for number in row["bbox"].split("-"))
        clip = TaichiClip(
            video_id=row["video_id"],
            start=int(float(row["start"])),
            end=int(float(row["end"])),
            box=(left, top, right, bottom),
            fps=float(row["fps"]),
            width=float(row["width"]),
            height=float(row["height"]),
            split=row["partition"],
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{place} is malformed ({error})") from error
    plain_name = Path(clip.video_id).name == clip.video_id and clip.video_id.strip(".")
    sizes_fit = clip.end > clip.start >= 0 and left < right and top < bottom
    positive = min(clip.fps, clip.width, clip.height) > 0
    if clip.split not in SPLITS or not plain_name or not sizes_fit or not positive:
        raise UserError(f"{place} is malformed; expected a clip inside its video, train or test")
    return clip


def find_source(videos: Path, clip: TaichiClip) -> Path | None:
    """Find a clip's source video."""
    candidates = (videos / f"{clip.video_id}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def cut(path: Path, clip: TaichiClip, size: int) -> tuple[Iterator[np.ndarray], float]:
    """Cut a clip out of its source, whatever rate and size that was downloaded at.

    Returns:
        Frames uint8 (size, size, 3), and their number a second.

    Raises:
        DecodeError: the source cannot be read, or ends before the clip.
    """
    times, rate = frame_times(path), frame_rate(path)
    first, last = (frames_at_rate(10**9, rate, clip.fps, t, t + 1)[0] for t in clip[1:3])
    last = min(last, len(times))  # annotations may run a little over
    if last - first < (clip.end - clip.start) * rate / clip.fps * 0.9:
        raise DecodeError(f"{path}: ends at frame {len(times)}, before the clip does")
    return _crops(path, times, int(first), int(last), clip, size), rate


def _crops(
    path: Path, times: np.ndarray, first: int, last: int, clip: TaichiClip, size: int
) -> Iterator[np.ndarray]:
    for start in range(first, last, FRAMES_AT_ONCE):
        for frame in read_frames(path, times, start, min(FRAMES_AT_ONCE, last - start)):
            across, down = frame.shape[1] / clip.width, frame.shape[0] / clip.height
            left, top, right, bottom = clip.box
            box = (left * across, top * down, right * across, bottom * down)
            picture = Image.fromarray(frame).crop(tuple(round(edge) for edge in box))
            yield np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))


def prepare(clip: TaichiClip, videos: Path, out: Path, size: int, account: Account) -> None:
    """Link or cut one clip."""
    target = out / clip.split / clip.name
    if (videos / clip.name).is_file():
        account.link(videos / clip.name, target)
        return
    source = find_source(videos, clip)
    if source is None:
        account.skip("source video not there", clip.name)
        return

    def write() -> None:
        frames, rate = cut(source, clip, size)
        write_video(target, frames, rate, crf=12, keyframe_every=16)

    try:
        account.make(target, write)
    except DecodeError as error:
        account.skip("unreadable", error)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips and print one line of JSON about it."""
    args = build_parser().parse_args(argv)
    if args.size < 2:
        raise UserError(f"--size got {args.size}; expected 2 pixels or more")
    videos = existing_folder(args.videos, "videos", "a folder of VIDEO_ID.mp4 files")
    clips = read_metadata(args.metadata)
    account = Account(dry_run=args.dry_run)
    for clip in with_progress(clips, "clip"):
        prepare(clip, videos, args.out, args.size, account)
    account.report(data_path=str(args.out), listed=len(clips))


if __name__ == "__main__":
    main()
