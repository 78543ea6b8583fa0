"""HDF5 files that hold all videos of a dataset, as frames or as codes of a VQGAN."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from tats.data.clips import Batch, ClipDataset, check_enough_videos
from tats.data.decoding import DecodeError
from tats.data.transforms import preprocess
from tats.errors import UserError
from tats.randomness import draw


class VideoStore:
    """One split of an HDF5 file: ``{split}_data``, the frames of all videos, and ``{split}_idx``.

    Args:
        path: the file.
        split: "train" or "test".

    Attributes:
        starts, ends: int64 (n_videos,), the frames of video i are starts[i]:ends[i].
        shape: of all frames, (n_frames, …).
        dtype: of the stored frames.

    Raises:
        UserError: the file is not an HDF5 file or has another layout.
    """

    def __init__(self, path: Path, split: str) -> None:
        self.path = path
        self.split = split
        self._opened: tuple[int, Any] | None = None
        try:
            with h5py.File(path, "r") as file:
                data, index = self._array(file, "data"), self._array(file, "idx")
                self.shape, self.dtype = data.shape, data.dtype
                bounds = np.asarray(index[()])
        except OSError as error:
            raise UserError(
                f"--data_path: {path} cannot be read ({error}); expected a folder or an HDF5 file"
            ) from error
        self._check_bounds(bounds)
        self.starts, self.ends = bounds[:-1].astype(np.int64), bounds[1:].astype(np.int64)

    def read(self, first: int, n_frames: int, every: int) -> np.ndarray:
        """Read every ``every``-th of ``n_frames`` frames from frame ``first`` of the file on.

        Raises:
            DecodeError: the file is damaged there.
        """
        # A forked process must not share its parent's file handle.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self.path, "r"))
        try:
            return self._array(self._opened[1], "data")[first : first + n_frames : every]
        except OSError as error:
            raise DecodeError(f"{self.path}: frames from {first} on: {error}") from error

    def labels(self) -> np.ndarray | None:
        """Labels of the videos, int64 (n_videos,); None where the file has none.

        Raises:
            UserError: they do not fit the videos.
        """
        with h5py.File(self.path, "r") as file:
            array = file.get(f"{self.split}_label")
            labels = None if array is None else np.asarray(array[()])
        if labels is None:
            return None
        if labels.shape != self.starts.shape or labels.dtype.kind not in "iu":
            raise UserError(
                f"--data_path: {self.path} has {labels.dtype} {labels.shape} as {self.split}_label"
                f"; expected a whole number for each of {len(self.starts)} videos"
            )
        return labels.astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # an open file does not travel to workers

    def _array(self, file: Any, kind: str) -> Any:
        name = f"{self.split}_{kind}"
        if not isinstance(file.get(name), h5py.Dataset):
            raise UserError(
                f"--data_path: {self.path} has no array {name}; expected {self.split}_data and "
                f"{self.split}_idx"
            )
        return file[name]

    def _check_bounds(self, bounds: np.ndarray) -> None:
        is_list = bounds.ndim == 1 and len(bounds) >= 2 and bounds.dtype.kind in "iu"
        if not is_list or bounds[0] < 0 or (bounds[1:] < bounds[:-1]).any():
            expected = "the videos' first frames in rising order, then the end of the last"
        elif bounds[-1] > self.shape[0]:
            expected = f"no frame beyond {self.shape[0]}"
        else:
            return
        raise UserError(f"--data_path: {self.path} has a bad {self.split}_idx; expected {expected}")


class _HDF5Windows(ClipDataset):
    """Random windows of the videos of one HDF5 file, one item a video."""

    def __init__(
        self,
        *,
        path: Path,
        train: bool,
        sequence_length: int,
        sample_every_n_frames: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.store = VideoStore(path, "train" if train else "test")
        self.sequence_length = sequence_length
        self.sample_every_n_frames = sample_every_n_frames
        n_frames = self.store.ends - self.store.starts
        self.videos = np.flatnonzero(n_frames >= sequence_length)  # numbers within the file
        check_enough_videos(
            path,
            n_videos=len(n_frames),
            n_unreadable=0,
            n_short=len(n_frames) - len(self.videos),
            min_frames=sequence_length,
        )
        self.n_starts = (n_frames - sequence_length + 1)[self.videos]

    def __len__(self) -> int:
        return len(self.videos)

    def window(self, index: int, start: int) -> np.ndarray:
        """Read a window of one item's video, which starts at its frame ``start``, as stored."""
        assert 0 <= start < self.n_starts[index], (index, start)
        first = int(self.store.starts[self.videos[index]]) + start
        return self.store.read(first, self.sequence_length, self.sample_every_n_frames)


class HDF5Dataset(_HDF5Windows):
    """Random windows of videos stored as uint8 frames (frames, H, W, 3), one item a video.

    Args:
        path: the file.
        train: read the training split.
        sequence_length: window in frames of the file.
        resolution: side of the clips in pixels.
        sample_every_n_frames: keep every n-th frame of a window.
        seed: of the windows.

    Raises:
        UserError: the file has another content, or its videos are too short.

    Source: docs/DATASETS.md, "What a clip is"; D7.
    """

    def __init__(
        self,
        *,
        path: Path,
        train: bool,
        sequence_length: int,
        resolution: int,
        sample_every_n_frames: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            path=path,
            train=train,
            sequence_length=sequence_length,
            sample_every_n_frames=sample_every_n_frames,
            seed=seed,
        )
        self.resolution = resolution
        shape, dtype = self.store.shape, self.store.dtype
        if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8:
            raise UserError(
                f"--data_path: {self.store.path} holds {dtype} {shape}; expected uint8 frames "
                "(frames, height, width, 3) (--vtokens reads codes)"
            )

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        frames = self.window(index, draw(int(self.n_starts[index]), generator))
        return {"video": preprocess(frames, self.resolution)}


class HDF5TextDataset(HDF5Dataset):
    """``HDF5Dataset`` with captions from ``{train,test}_text_description.txt`` beside the file.

    Line i holds the captions of video i, separated by tabs; an item gets one of them.

    Args:
        path, train, sequence_length, resolution, sample_every_n_frames, seed: as for
            ``HDF5Dataset``.
        tokenize: turns a caption into int64 (n_tokens,).

    Raises:
        UserError: the captions are missing or do not fit the videos.

    Source: docs/DATASETS.md, "Layouts".
    """

    def __init__(
        self,
        *,
        path: Path,
        train: bool,
        sequence_length: int,
        resolution: int,
        tokenize: Callable[[str], Tensor],
        sample_every_n_frames: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            path=path,
            train=train,
            sequence_length=sequence_length,
            resolution=resolution,
            sample_every_n_frames=sample_every_n_frames,
            seed=seed,
        )
        self.tokenize = tokenize
        captions = _read_captions(self.store)
        self.captions = [captions[video] for video in self.videos]

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        item = super().clip(index, generator)
        captions = self.captions[index]
        return {**item, "text": self.tokenize(captions[draw(len(captions), generator)])}


class HDF5TokenDataset(_HDF5Windows):
    """Random windows and crops of videos stored as codes (frames, h, w), with labels if stored.

    Labels are ``{split}_label``, one a video.

    Args:
        path, train, sequence_length, sample_every_n_frames, seed: as for ``HDF5Dataset``.
        resolution: height and width of the stored codes.
        spatial_length: height and width of a crop; no crop is made if it is not smaller.

    Raises:
        UserError: the file has another content, or its videos are too short.

    Source: docs/DATASETS.md, "What a clip is"; D7.
    """

    def __init__(
        self,
        *,
        path: Path,
        train: bool,
        sequence_length: int,
        resolution: int,
        spatial_length: int,
        sample_every_n_frames: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            path=path,
            train=train,
            sequence_length=sequence_length,
            sample_every_n_frames=sample_every_n_frames,
            seed=seed,
        )
        self.resolution = resolution
        self.side = min(spatial_length, resolution)
        self.labels = self.store.labels()
        shape, dtype = self.store.shape, self.store.dtype
        if shape[1:] != (resolution, resolution) or dtype.kind not in "iu":
            raise UserError(
                f"--data_path: {self.store.path} holds {dtype} {shape}; expected whole-number "
                f"codes (frames, {resolution}, {resolution}) for --vtokens --resolution "
                f"{resolution}"
            )

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        start = draw(int(self.n_starts[index]), generator)
        top = left = 0
        if self.side < self.resolution:
            top = draw(self.resolution - self.side + 1, generator)
            left = draw(self.resolution - self.side + 1, generator)
        return self.crop(index, start, top, left)

    def crop(self, index: int, start: int, top: int, left: int) -> Batch:
        """Read one crop.

        Args:
            index: number of the item.
            start: its first frame.
            top, left: its first row and column.

        Returns:
            ``video`` int64 (t, side, side) and ``cbox`` int64 (4,): y0, y1, x0, x1; ``label``
            int64 () where labels are stored.
        """
        bottom, right = top + self.side, left + self.side
        codes = self.window(index, start)[:, top:bottom, left:right]
        item: Batch = {
            "video": torch.from_numpy(codes.astype(np.int64)),
            "cbox": torch.tensor([top, bottom, left, right]),
        }
        if self.labels is not None:
            item["label"] = torch.tensor(self.labels[self.videos[index]])
        return item


def stored_class_names(path: Path) -> list[str]:
    """Names of the classes that a file's labels are numbers of; none where it says nothing."""
    try:
        with h5py.File(path, "r") as file:
            return [str(name) for name in file.attrs.get("class_names", ())]
    except OSError:
        return []


def _read_captions(store: VideoStore) -> list[list[str]]:
    path = store.path.parent / f"{store.split}_text_description.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--text_cond: {path} cannot be read ({error}); expected one line of tab-separated "
            "captions for every video"
        ) from error
    captions = [[text for text in line.split("\t") if text.strip()] for line in lines]
    n_videos = len(store.starts)
    if len(captions) < n_videos or not all(captions[:n_videos]):
        raise UserError(
            f"--text_cond: {path} has captions for {sum(map(bool, captions))} videos; expected "
            f"{n_videos}, a line for each"
        )
    return captions
