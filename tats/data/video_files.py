"""Folders of video files, the layout of UCF-101 and Taichi-HD."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from tats.data.clips import Batch, LabelledClips, check_enough_videos
from tats.data.decoding import VIDEO_SUFFIXES, read_frames
from tats.data.transforms import preprocess
from tats.data.video_index import index_videos
from tats.errors import UserError


class VideoDataset(LabelledClips):
    """Every window of consecutive frames of every video is a clip.

    Args:
        root: folder with ``train/`` and ``test/``, which hold .avi, .mp4 or .webm files at any
            depth; a file's class is the folder it lies in (one class for files directly below
            ``train/``), numbered by the sorted names found below ``train/``.
        train: read ``train/`` rather than ``test/``.
        sequence_length: window in frames of the file.
        resolution: side of the clips in pixels.
        sample_every_n_frames: keep every n-th frame of a window.
        seed: of the choice of another clip where one cannot be read.
        show_progress: draw a bar while the files are indexed.

    Raises:
        UserError: the folder has no such layout, or too few of its videos give clips.

    Source: docs/DATASETS.md, "What a clip is".
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
        show_progress: bool = True,
    ) -> None:
        super().__init__(seed=seed, class_names=video_class_names(root))
        self.sequence_length = sequence_length
        self.resolution = resolution
        self.sample_every_n_frames = sample_every_n_frames
        folder = split_folder(root, train)
        files = list_videos(folder)
        self._file_labels = self._label_files(folder, files, root)
        self.index = index_videos(folder, files, show_progress=show_progress)
        n_frames = self.index.n_frames()
        n_windows = np.maximum(n_frames - sequence_length + 1, 0)
        check_enough_videos(
            folder,
            n_videos=len(files),
            n_unreadable=int((n_frames == 0).sum()),
            n_short=int(((n_frames > 0) & (n_windows == 0)).sum()),
            min_frames=sequence_length,
        )
        self._first_clip = np.cumsum([0, *n_windows])  # (n_files + 1,)

    def _label_files(self, folder: Path, files: list[Path], root: Path) -> np.ndarray:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for file in files:
            if class_name(file, folder) not in numbers:
                raise UserError(
                    f"--data_path: the folder {file.parent} has no counterpart among the "
                    f"{len(numbers)} class folders of {root / 'train'}; expected the same classes "
                    "in both"
                )
        return np.array([numbers[class_name(file, folder)] for file in files], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._first_clip[-1])

    def labels(self) -> np.ndarray:
        return np.repeat(self._file_labels, np.diff(self._first_clip))

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        number = int(np.searchsorted(self._first_clip, index, side="right")) - 1
        frames = read_frames(
            self.index.files[number],
            self.index.times_of(number),
            start=index - int(self._first_clip[number]),
            n_frames=self.sequence_length,
            every=self.sample_every_n_frames,
        )
        return {
            "video": preprocess(frames, self.resolution),
            "label": torch.tensor(self._file_labels[number]),
        }


def split_folder(root: Path, train: bool) -> Path:
    """Find ``train/`` or ``test/`` of a dataset folder.

    Raises:
        UserError: it is not there.
    """
    folder = root / ("train" if train else "test")
    if not folder.is_dir():
        raise UserError(
            f"--data_path: {root} has no {folder.name}/ folder; expected train/ and test/ in it"
        )
    return folder


def list_videos(folder: Path) -> list[Path]:
    """List a folder's video files at any depth, sorted, hidden ones left out.

    Raises:
        UserError: there is none.
    """
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith(VIDEO_SUFFIXES)
        ]
    if not files:
        raise UserError(
            f"--data_path: {folder} has no video; expected {', '.join(VIDEO_SUFFIXES)} files "
            "(--image_folder reads folders of frames)"
        )
    return sorted(files)


def class_name(file: Path, folder: Path) -> str:
    """Name a video's class; files directly in the split's folder share one, named ``""``."""
    return file.parent.name if file.parent != folder else ""


def video_class_names(root: Path) -> list[str]:
    """List the classes of a dataset folder, in the order of their labels.

    Raises:
        UserError: the folder has no ``train/`` with videos in it.
    """
    folder = split_folder(root, train=True)
    return sorted({class_name(file, folder) for file in list_videos(folder)})
