"""Videos with the spectrograms of their sound, the layout of AudioSet-Drums."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tats.clip_spec import STFT_SIZE
from tats.data.clips import Batch, ClipDataset, check_enough_videos
from tats.data.decoding import VIDEO_SUFFIXES, DecodeError, read_frames
from tats.data.sound import cut_sound, read_sound
from tats.data.transforms import preprocess
from tats.data.video_index import index_videos
from tats.errors import UserError
from tats.randomness import draw
from tats.video_io import Sound
from tats.weights.pickles import restricted_unpickle

STFT_SUFFIXES = (".pickle", ".pkl", ".npy", ".npz")
_SLACK = 1e-6  # beyond [0, 1], from rounding


class StftClip(NamedTuple):
    """A video and the spectrogram file of its sound."""

    video: Path
    stft: Path


def stft_clip(
    array: np.ndarray, start: int, n_frames: int = 16, size: tuple[int, int] = STFT_SIZE
) -> Tensor:
    """Make the spectrogram clip a model sees.

    Args:
        array: (n, F, K) in [0, 1]: video frames, frequencies, columns of a frame.
        start: first frame.
        n_frames: length of the clip in frames.
        size: frequencies and columns of the result.

    Returns:
        float32 (1, n_frames, *size) in [-1, 1].

    Raises:
        UserError: the array has another shape or range, or is too short.

    Source: docs/DATASETS.md, "What a clip is".
    """
    array = np.asarray(array)
    _check_stft(array, "STFT array")
    if not 0 <= start <= len(array) - n_frames:
        raise UserError(
            f"STFT array has {len(array)} frames; expected at least {start + n_frames}, for "
            f"{n_frames} frames from {start} on"
        )
    window = torch.from_numpy(np.array(array[start : start + n_frames], dtype=np.float32))
    window = (window * 2 - 1)[None]  # (1, n_frames, F, K)
    return F.interpolate(window, size=size, mode="bilinear", align_corners=False)


def read_stft(path: Path) -> np.ndarray:
    """Read a spectrogram file without executing anything in it.

    Args:
        path: .pickle, .npy, or .npz with one array.

    Returns:
        (n, F, K) in [0, 1].

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    is_pickle = path.suffix in (".pickle", ".pkl")
    array = restricted_unpickle(path) if is_pickle else _read_numpy(path)
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds a {type(array).__name__}; expected an STFT array")
    _check_stft(array, str(path))
    return array


def _read_numpy(path: Path) -> np.ndarray:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if len(content.files) != 1:
                raise UserError(f"{path} holds {len(content.files)} arrays; expected one STFT")
            return content[content.files[0]]
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen kinds on damaged files
        raise UserError(f"{path} cannot be read as an array ({error}); make it again") from error


def _check_stft(array: np.ndarray, name: str) -> None:
    shape_fits = array.ndim == 3 and array.size > 0 and array.shape[1] >= array.shape[2]
    if not shape_fits or array.dtype.kind not in "fiu":
        raise UserError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected numbers (frames, "
            "frequencies, columns), such as (90, 45, 17)"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # also where they are not a number
        raise UserError(f"{name} has values {low:g} to {high:g}; expected them in [0, 1]")


class StftDataset(ClipDataset):
    """A random window of every video, with the spectrograms of the same frames.

    Args:
        root: ``stft/{train,test}/x.pickle`` beside ``video/{train,test}/x.mp4``, or
            ``{train,test}/stft_pickle/x.pickle`` beside ``{train,test}/mp4/x.mp4``; the ``stft``
            folder itself may be given for its parent.
        train: read ``train`` rather than ``test``.
        sequence_length: window in frames.
        resolution: side of the video clips in pixels.
        seed: of all random choices.
        show_progress: draw a bar while the videos are indexed.

    Raises:
        UserError: the folder has no such layout, a video or spectrogram lacks its counterpart,
            or too few of the videos give clips.

    Source: docs/DATASETS.md, "What a clip is".
    """

    def __init__(
        self,
        *,
        root: Path,
        train: bool,
        sequence_length: int,
        resolution: int,
        seed: int = 0,
        show_progress: bool = True,
    ) -> None:
        super().__init__(seed=seed)
        self.sequence_length = sequence_length
        self.resolution = resolution
        videos, stfts = stft_folders(root, train)
        pairs = pair_files(videos, stfts)
        index = index_videos(videos, [pair.video for pair in pairs], show_progress=show_progress)
        n_frames = index.n_frames()
        check_enough_videos(
            videos,
            n_videos=len(pairs),
            n_unreadable=int((n_frames == 0).sum()),
            n_short=int(((n_frames > 0) & (n_frames < sequence_length)).sum()),
            min_frames=sequence_length,
        )
        kept = np.flatnonzero(n_frames >= sequence_length).tolist()
        self.pairs = [pairs[number] for number in kept]
        self._times = [index.times_of(number) for number in kept]

    def __len__(self) -> int:
        return len(self.pairs)

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        stft = read_stft(self.pairs[index].stft)
        start = self._draw_start(index, stft, generator)
        frames = read_frames(
            self.pairs[index].video, self._times[index], start, self.sequence_length
        )
        return {
            "video": preprocess(frames, self.resolution),
            "stft": stft_clip(stft, start, self.sequence_length),
            "start": torch.tensor(start),
        }

    def _draw_start(self, index: int, stft: np.ndarray, generator: torch.Generator) -> int:
        # A video may have a frame more or less than its spectrogram.
        n_frames = min(len(stft), len(self._times[index]))
        if n_frames < self.sequence_length:
            raise UserError(
                f"{self.pairs[index].stft} has {len(stft)} frames; expected at least "
                f"{self.sequence_length}: lower --sequence_length or leave the file out"
            )
        return draw(n_frames - self.sequence_length + 1, generator)

    def sound(self, index: int, start: int) -> Sound:
        """Read the sound of one window.

        Args:
            index: in [0, len).
            start: first frame.

        Raises:
            UserError: the video has none.
        """
        path = self.pairs[index].video
        try:
            return cut_sound(read_sound(path), start, self.sequence_length)
        except DecodeError as error:
            raise UserError(
                f"--data_path: the sound of {path} cannot be read ({error}); expected a video "
                "with sound"
            ) from error


def stft_folders(root: Path, train: bool) -> tuple[Path, Path]:
    """Find the folders of a split's videos and spectrograms in either layout.

    Raises:
        UserError: they are not there.
    """
    split = "train" if train else "test"
    for top in (root, root.parent) if root.name == "stft" else (root,):
        for videos, stfts in (
            (top / "video" / split, top / "stft" / split),
            (top / split / "mp4", top / split / "stft_pickle"),
        ):
            if videos.is_dir() and stfts.is_dir():
                return videos, stfts
    raise UserError(
        f"--data_path: {root} has no spectrograms with their videos for the {split} split; "
        f"expected stft/{split}/ beside video/{split}/, or {split}/stft_pickle/ beside "
        f"{split}/mp4/ (scripts/prepare_audioset_drums.py makes them)"
    )


def pair_files(videos: Path, stfts: Path) -> list[StftClip]:
    """Match the videos and spectrograms of two folders by name.

    Returns:
        At least one pair, sorted by name.

    Raises:
        UserError: there is none, or a file has no counterpart.
    """
    by_name = {
        folder: {
            path.stem: path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in suffixes and not path.name.startswith(".")
        }
        for folder, suffixes in ((videos, VIDEO_SUFFIXES), (stfts, STFT_SUFFIXES))
    }
    for here, there in ((videos, stfts), (stfts, videos)):
        alone = [path for name, path in by_name[here].items() if name not in by_name[there]]
        if alone:
            raise UserError(
                f"--data_path: {alone[0]} has no mate of that name in {there} ({len(alone)} such "
                "files); expected a video and a spectrogram of each name"
            )
    if not by_name[videos]:
        raise UserError(
            f"--data_path: {videos} and {stfts} are empty; expected videos and spectrograms"
        )
    return [StftClip(path, by_name[stfts][name]) for name, path in by_name[videos].items()]
