"""Folders of image files, one folder a video: the layout of Sky Time-lapse."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tats.data.clips import Batch, ClipDataset, check_enough_videos
from tats.data.decoding import DecodeError
from tats.errors import UserError
from tats.randomness import draw
from tats.video_io import to_float

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
WHOLE_VIDEO = -1


class FrameDataset(ClipDataset):
    """Every folder of images is a video; an item is a random window of it.

    Args:
        root: folder with ``train/`` and ``test/`` (or ``sky_train/`` and ``sky_test/``, any such
            pair), or folders of frames alone, which then serve both splits. Frames are ordered by
            the number after the last ``_`` of their names.
        train: read the training split.
        sequence_length: frames of a clip, not counting those that are passed over; -1 = all.
        resolution: side of the clips in pixels.
        sample_every_n_frames: keep every n-th frame.
        seed: of the windows.

    Raises:
        UserError: no frames are found, a frame has no number, or all videos are too short.

    Source: docs/DATASETS.md, "What a clip is"; D7, D23.
    """

    def __init__(
        self,
        *,
        root: Path,
        train: bool,
        sequence_length: int,
        resolution: int,
        sample_every_n_frames: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.sequence_length = sequence_length
        self.resolution = resolution
        self.sample_every_n_frames = sample_every_n_frames
        folder = frame_split_folder(root, train)
        videos = list_frame_folders(folder)
        min_frames = 1
        if sequence_length != WHOLE_VIDEO:
            min_frames = (sequence_length - 1) * sample_every_n_frames + 1
        self.videos = [frames for frames in videos if len(frames) >= min_frames]
        check_enough_videos(
            folder,
            n_videos=len(videos),
            n_unreadable=0,
            n_short=len(videos) - len(self.videos),
            min_frames=min_frames,
        )
        self._window_span = min_frames

    def __len__(self) -> int:
        return len(self.videos)

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        start = 0
        if self.sequence_length != WHOLE_VIDEO:
            n_starts = len(self.videos[index]) - self._window_span + 1
            start = draw(n_starts, generator)
        return {"video": self.window(index, start)}

    def window(self, index: int, start: int) -> Tensor:
        """Read a video from frame ``start`` on.

        Args:
            index: number of the video.
            start: number of its first frame to read.

        Returns:
            float32 (3, sequence_length, resolution, resolution) in [-0.5, 0.5].

        Raises:
            DecodeError: a frame cannot be read.
        """
        paths = self.videos[index][start :: self.sample_every_n_frames]
        if self.sequence_length != WHOLE_VIDEO:
            paths = paths[: self.sequence_length]
        box = _central_square(self.videos[index][0])
        frames = [_read_square(path, box, self.resolution) for path in paths]
        return to_float(np.stack(frames))


def frame_split_folder(root: Path, train: bool) -> Path:
    """Find the training or test half of a folder of frame folders; the folder itself if flat.

    Raises:
        UserError: only the other half is there.
    """
    halves = {
        half: sorted(
            child
            for child in root.iterdir()
            if child.is_dir() and (child.name == half or child.name.endswith(f"_{half}"))
        )
        for half in ("train", "test")
    }
    wanted = "train" if train else "test"
    if not any(halves.values()):
        log.warning("%s has no train/ and test/ folders: both splits use all its frames", root)
        return root
    if len(halves[wanted]) != 1:
        found = ", ".join(folder.name for folder in halves[wanted]) or "none"
        raise UserError(
            f"--data_path: {root} has {found} as its {wanted} folder; expected one {wanted}/ "
            f"or one *_{wanted}/"
        )
    return halves[wanted][0]


def list_frame_folders(folder: Path) -> list[list[Path]]:
    """List every folder's images in the order of their numbers, at any depth.

    Returns:
        One list a video, sorted by the folders' names.

    Raises:
        UserError: there is no image, or an image has no number.
    """
    videos: dict[Path, list[Path]] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
        if images:
            videos[Path(parent)] = sorted(images, key=frame_number)
    if not videos:
        raise UserError(
            f"--data_path: {folder} has no image; expected folders of frames such as "
            "NAME/frame_0.png for --image_folder"
        )
    return [videos[parent] for parent in sorted(videos)]


def frame_number(path: Path) -> int:
    """Read the number after the last ``_`` of a frame's name.

    Raises:
        UserError: there is none.
    """
    number = path.stem.rpartition("_")[2]
    if not number.isdecimal():
        raise UserError(
            f"--data_path: {path} has no frame number; expected a name that ends in _ and a "
            "number, such as frame_12.png"
        )
    return int(number)


def _central_square(path: Path) -> tuple[int, int, int, int]:
    """Give the largest central square of an image as (left, top, right, bottom)."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, UnidentifiedImageError) as error:
        raise DecodeError(f"{path}: {error}") from error
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _read_square(path: Path, box: tuple[int, int, int, int], resolution: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            square = image.convert("RGB").crop(box)
            resized = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
            return np.asarray(resized)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DecodeError(f"{path}: {error}") from error
