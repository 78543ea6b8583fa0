"""Clips of demo data on disk: class folders, folders of frames, or one HDF5 file."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from tqdm import tqdm

from demo_data.clips import SPLITS, Clip
from tats.data.transforms import centre_crop
from tats.errors import UserError
from tats.paths import atomic_path
from tats.video_io import write_frames, write_video

LAYOUTS = ("class_folders", "frame_folders", "hdf5")


def store_folders(clips: Sequence[Clip], args: argparse.Namespace) -> int:
    """Write a video file, or a folder of frames, for every clip; return how many are new."""
    n_new = 0
    for clip in progress(clips):
        folder = args.out / clip.split / clip.class_name
        if args.layout == "class_folders":
            path = folder / f"{clip.name}.mp4"
            if not path.exists():
                frames, sound, fps = clip.make()
                write_video(path, frames, fps or args.fps, sound, crf=10, keyframe_every=16)
                n_new += 1
        elif not (folder / clip.name).exists():
            with tempfile.TemporaryDirectory(dir=folder_for(folder), prefix=".") as temporary:
                write_frames(Path(temporary, clip.name), clip.make().frames)
                Path(temporary, clip.name).rename(folder / clip.name)
            n_new += 1
    return n_new


def store_hdf5(clips: Sequence[Clip], args: argparse.Namespace) -> int:
    """Write all clips into one file; return how many are new."""
    path = args.out / "clips.h5"
    if path.exists():
        return 0
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        shape = (0, args.size, args.size, 3)
        data = {
            split: file.create_dataset(
                f"{split}_data",
                shape,
                np.uint8,
                maxshape=(None, *shape[1:]),
                chunks=(1, *shape[1:]),
            )
            for split in SPLITS
        }
        starts: dict[str, list[int]] = {split: [0] for split in SPLITS}
        for clip in progress(clips):
            video = torch.from_numpy(clip.make().frames).permute(0, 3, 1, 2)
            frames = centre_crop(video, args.size).permute(0, 2, 3, 1).numpy()
            first = starts[clip.split][-1]
            starts[clip.split].append(first + len(frames))
            data[clip.split].resize(first + len(frames), axis=0)
            data[clip.split][first:] = frames
        for split in SPLITS:
            file[f"{split}_idx"] = np.array(starts[split])
    return len(clips)


def progress(clips: Sequence[Clip]) -> Iterator[Clip]:
    """Draw a bar over the clips."""
    return iter(tqdm(clips, desc="clips", unit="clip"))


def folder_for(folder: Path) -> Path:
    """Make a folder and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be made ({error.strerror})") from error
    return folder
