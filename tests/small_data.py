"""Small datasets with pixels that say where they come from, shared by tests."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tats.video_io import write_frames, write_video

SIDE = 16  # pixels
N_FRAMES = 10


def grey_frames(n_frames: int = N_FRAMES, first_level: int = 0, side: int = SIDE) -> np.ndarray:
    """Frames uint8 (T, side, side, 3) of one grey each, 20 levels brighter from one to the next."""
    levels = first_level + 20 * np.arange(n_frames)
    return np.broadcast_to(
        levels[:, None, None, None].astype(np.uint8), (n_frames, side, side, 3)
    ).copy()


def frame_numbers(video: Any, first_level: int = 0) -> list[int]:
    """Tell which frames of ``grey_frames`` a clip (C, T, H, W) holds."""
    levels = (np.asarray(video).mean(axis=(0, 2, 3)) + 0.5) * 255
    return np.rint((levels - first_level) / 20).astype(int).tolist()


def write_video_folders(
    root: Path, lengths: Mapping[str, int], *, suffix: str = ".mp4", first_level: int = 0
) -> None:
    """Write videos, such as ``{"train/cats/a": 10}``: path without suffix, number of frames."""
    for name, n_frames in lengths.items():
        write_video(root / f"{name}{suffix}", grey_frames(n_frames, first_level), fps=10, crf=1)


def write_frame_folders(root: Path, lengths: Mapping[str, int]) -> None:
    """Write folders of frames, such as ``{"train/sky": 10}``."""
    for name, n_frames in lengths.items():
        write_frames(root / name, grey_frames(n_frames))


def write_hdf5(
    path: Path, lengths: Mapping[str, list[int]], *, codes_side: int | None = None
) -> None:
    """Write an HDF5 file, such as ``{"train": [10, 12]}``: videos of that many frames.

    With ``codes_side`` it holds codes, where code = 100 * frame + 10 * row + column.
    """
    with h5py.File(path, "w") as file:
        for split, n_frames in lengths.items():
            if codes_side is None:
                data = np.concatenate([grey_frames(n) for n in n_frames])
            else:
                time, row, column = np.indices((max(n_frames), codes_side, codes_side))
                video = 100 * time + 10 * row + column
                data = np.concatenate([video[:n] for n in n_frames])
            file[f"{split}_data"] = data
            file[f"{split}_idx"] = np.cumsum([0, *n_frames])


def data_args(data_path: Path, **flags: Any) -> Namespace:
    """Flags for ``VideoData`` at the sizes of these datasets."""
    defaults = {"resolution": SIDE, "sequence_length": 4, "batch_size": 2, "num_workers": 0}
    return Namespace(data_path=str(data_path), **{**defaults, **flags})
