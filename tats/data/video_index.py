"""Which frames every video file of a folder holds, found once and remembered safely."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tats.data.decoding import DecodeError, frame_times
from tats.errors import UserError
from tats.paths import atomic_path, cache_dir

log = logging.getLogger(__name__)

CACHE_NAME = ".tats_index.npz"
FORMAT_VERSION = 1
_NO_FRAMES = np.empty(0, dtype=np.int64)


class FileStamp(NamedTuple):
    """What tells whether a file has changed: its name in the folder, bytes, and nanoseconds."""

    name: str
    size: int
    mtime_ns: int


class VideoIndex(NamedTuple):
    """Frame times of many files, in flat arrays that data-loading processes share.

    Attributes:
        files: the videos.
        offsets: int64 (n_files + 1,); file i owns times[offsets[i]:offsets[i + 1]], which is
            empty where the file cannot be read.
        times: int64 (n_frames of all files,), see ``frame_times``.
    """

    files: list[Path]
    offsets: np.ndarray
    times: np.ndarray

    def n_frames(self) -> np.ndarray:
        """Count every file's frames, int64 (n_files,)."""
        return np.diff(self.offsets)

    def times_of(self, number: int) -> np.ndarray:
        """Return the frame times of one file."""
        return self.times[self.offsets[number] : self.offsets[number + 1]]


def index_videos(folder: Path, files: Sequence[Path], *, show_progress: bool = True) -> VideoIndex:
    """Find out which frames the files hold, asking only those that are new or have changed.

    The answer is kept beside the data, or in the user's cache where the data cannot be written.
    It holds every frame's time and so serves every ``--sequence_length``.

    Args:
        folder: the folder the files lie in.
        files: the videos.
        show_progress: draw a bar while files are read.

    Returns:
        The index, in the order of ``files``.
    """
    stamps = [_stamp(folder, file) for file in files]
    known = _load_cache(folder)
    new = [stamp for stamp in stamps if stamp not in known]
    if new:
        known.update(_probe(folder, new, show_progress))
        known = {stamp: known[stamp] for stamp in stamps}  # files that are gone are forgotten
        _save_cache(folder, known)
    per_file = [known[stamp] for stamp in stamps]
    offsets = np.cumsum([0, *map(len, per_file)], dtype=np.int64)
    return VideoIndex(list(files), offsets, np.concatenate([_NO_FRAMES, *per_file]))


def _stamp(folder: Path, file: Path) -> FileStamp:
    name = file.relative_to(folder).as_posix()
    try:
        status = file.stat()
    except OSError:  # a dangling link: counted among the unreadable
        return FileStamp(name, -1, -1)
    return FileStamp(name, status.st_size, status.st_mtime_ns)


def _probe(
    folder: Path, stamps: Iterable[FileStamp], show_progress: bool
) -> Mapping[FileStamp, np.ndarray]:
    def times(stamp: FileStamp) -> np.ndarray:
        try:
            return frame_times(folder / stamp.name)
        except DecodeError as error:
            log.warning("unreadable video: %s", error)
            return _NO_FRAMES

    stamps = list(stamps)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        bar = tqdm(
            pool.map(times, stamps),
            total=len(stamps),
            desc=f"indexing {folder.name}",
            unit="video",
            disable=not show_progress,
        )
        return dict(zip(stamps, bar, strict=True))


def _cache_files(folder: Path) -> tuple[Path, Path]:
    digest = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()
    return folder / CACHE_NAME, cache_dir() / "indexes" / f"{digest[:24]}.npz"


def _load_cache(folder: Path) -> dict[FileStamp, np.ndarray]:
    for file in _cache_files(folder):
        if not file.is_file():
            continue
        try:
            with np.load(file, allow_pickle=False) as stored:
                if int(stored["version"]) != FORMAT_VERSION:
                    continue
                columns = (stored[key].tolist() for key in ("names", "sizes", "mtimes"))
                stamps = [FileStamp(*row) for row in zip(*columns, strict=True)]
                per_file = np.split(stored["times"], np.cumsum(stored["counts"])[:-1])
                return dict(zip(stamps, per_file, strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s) and will be made again", file, error)
    return {}


def _save_cache(folder: Path, known: Mapping[FileStamp, np.ndarray]) -> None:
    names, sizes, mtimes = zip(*known, strict=True)
    content: dict[str, Any] = {
        "version": np.array(FORMAT_VERSION),
        "names": np.array(names, dtype=np.str_),
        "sizes": np.array(sizes, dtype=np.int64),
        "mtimes": np.array(mtimes, dtype=np.int64),
        "counts": np.array([len(times) for times in known.values()], dtype=np.int64),
        "times": np.concatenate([_NO_FRAMES, *known.values()]),
    }
    for file in _cache_files(folder):
        try:
            with atomic_path(file) as temporary:
                np.savez_compressed(temporary, **content)
            return
        except UserError as error:
            log.info("the index of %s goes elsewhere: %s", folder, error)
    log.warning("the index of %s cannot be kept: it is made again at every start", folder)
