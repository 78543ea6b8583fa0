"""Clips of an unfinished run, one file a sample, so that an interrupted run can go on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from tats.paths import atomic_path

log = logging.getLogger(__name__)

FRAMES_PER_COPY = 64


class Parts:
    """The finished samples of a run with certain settings.

    A run with other settings keeps its parts elsewhere, and never sees these.

    Args:
        folder: folder of the run's results.
        settings: everything the clips depend on.
        clip_shape: (T, H, W) of a clip.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], clip_shape: tuple[int, int, int]
    ) -> None:
        text = json.dumps(settings, sort_keys=True, default=str)
        self.folder = folder / f".parts-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.shape = (*clip_shape, 3)

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Which of these samples are not there yet."""
        return [index for index in indices if not self._path(index).exists()]

    def write(self, index: int, pieces: Iterable[Tensor]) -> None:
        """Write a sample, piece by piece as it comes, whole or not at all.

        Args:
            index: number of the sample.
            pieces: uint8 (n, H, W, 3), all frames of the clip in order.
        """
        with atomic_path(self._path(index)) as path, path.open("wb") as file:
            write_npy_header(file, self.shape)
            n_frames = 0
            for piece in pieces:
                file.write(np.ascontiguousarray(piece.numpy()).data)
                n_frames += len(piece)
            assert n_frames == self.shape[0], f"{n_frames} of {self.shape[0]} frames came"

    def clip(self, index: int) -> np.ndarray:
        """A sample's frames, uint8 (T, H, W, 3), read from disk where they are touched."""
        return np.load(self._path(index), mmap_mode="r", allow_pickle=False)

    def join(self, path: Path, indices: Sequence[int]) -> None:
        """Write samples as one array (n, T, H, W, 3), whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            write_npy_header(file, (len(indices), *self.shape))
            for index in indices:
                for piece in pieces_of(self.clip(index)):
                    file.write(np.ascontiguousarray(piece).data)

    def remove(self) -> None:
        """Delete the parts of this run and of unfinished ones with other settings."""
        for folder in self.folder.parent.glob(".parts-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"sample_{index:05d}.npy"


def pieces_of(clip: np.ndarray) -> Iterator[np.ndarray]:
    """Go through a clip a few frames at a time."""
    return (clip[i : i + FRAMES_PER_COPY] for i in range(0, len(clip), FRAMES_PER_COPY))


def write_npy_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin a .npy file of uint8 whose bytes will follow."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.uint8))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
