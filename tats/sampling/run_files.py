"""The files of one run, the same for all samplers.

    ucf101_short_topp0.92_topk2048_run0-3f9c2ab1/
      run.json                        what the run is, its result, and whether it is done: "status"
      clips.npy                       uint8 (n, T, H, W, 3), the run's n clips in order
      codes.npy                       int32 (n, t, h, w), where asked for
      videos/sample_00000.mp4         a clip, with its sound and beside the real one if it has these
      videos/samples_00000-00015.mp4  16 clips side by side
      frames/sample_00000/frame_00000.png
      .parts/                         clips and codes of an unfinished run, one file a sample

Every file is written whole or not at all. Videos and pictures are made from ``clips.npy``, so that
a finished run can be asked for them later.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tats.errors import UserError
from tats.paths import atomic_path
from tats.video_io import Sound, video_grid, write_frames, write_npy, write_video

CLIPS_PER_GRID = 16
_FRAMES_PER_COPY = 64
_CLIPS, _CODES, _RECORD, _VIDEOS, _FRAMES = "clips.npy", "codes.npy", "run.json", "videos", "frames"
_LAYOUT = {_CLIPS, _CODES, _RECORD, _VIDEOS, _FRAMES}

# Turns a sample's number and frames, uint8 (T, H, W, 3), into those to look at and their sound.
Present = Callable[[int, np.ndarray], tuple[np.ndarray, Sound | None]]


@dataclass(frozen=True)
class Outputs:
    """What to write beside ``clips.npy`` and ``run.json``.

    Args:
        codes: the codes, ``codes.npy``.
        grids: 16 clips side by side, a video each.
        videos: every clip as a video of its own.
        frames: every frame as a picture.
        frame_rate: of the videos, frames a second; 8 is slow enough to look at sixteen frames.
        present: what a clip's own video shows; None for the clip alone, without sound.
    """

    codes: bool = False
    grids: bool = False
    videos: bool = False
    frames: bool = False
    frame_rate: float = 8.0
    present: Present | None = None


class RunFolder:
    """A run's folder: its record, its finished samples, its results.

    Args:
        path: where it is, or will be.
        samples: numbers of the run's samples.
        clip_shape: frames, height and width of a clip.
        latent_shape: frames, rows and columns of its codes.
    """

    def __init__(
        self,
        path: Path,
        samples: range,
        *,
        clip_shape: tuple[int, int, int],
        latent_shape: tuple[int, int, int],
    ) -> None:
        self.path = path
        self.samples = samples
        self.parts = path / ".parts"
        self._frame_shape = (*clip_shape, 3)
        self._latent_shape = tuple(latent_shape)
        self._part_bytes = len(_npy_header(self._frame_shape)) + math.prod(self._frame_shape)

    # --- the record ---------------------------------------------------------------------------

    def record(self) -> dict[str, Any] | None:
        """Read ``run.json``; None where there is none yet.

        Raises:
            UserError: it cannot be understood.
        """
        path = self.path / _RECORD
        try:
            record = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); move it away") from error
        if not isinstance(record, dict):
            raise UserError(f"{path} is not the record of a run; move it away")
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``: everything needed to know, and to repeat, what lies beside it."""
        with atomic_path(self.path / _RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=1, default=str) + "\n")

    def check_own(self, identity: str) -> None:
        """Make sure that what the folder holds already is this very run.

        Raises:
            UserError: it holds something else.
        """
        record = self.record()
        if record is not None and record.get("identity") != identity:
            raise UserError(f"{self.path} holds another run; choose another --save or --dataset")
        if record is None and self.path.exists():
            with contextlib.suppress(NotADirectoryError):
                if all(path.name.startswith(".") for path in self.path.iterdir()):
                    return
            raise UserError(
                f"{self.path} holds files but no run.json; expected a run's folder or none: "
                "choose another --save"
            )

    def is_finished(self) -> bool:
        """Whether the results are there."""
        record = self.record()
        return (
            record is not None
            and record.get("status") == "finished"
            and (self.path / _CLIPS).exists()
        )

    def has_codes(self) -> bool:
        """Whether ``codes.npy`` is there."""
        return (self.path / _CODES).exists()

    # --- samples of an unfinished run ---------------------------------------------------------

    def missing(self) -> list[int]:
        """Samples that are not finished yet."""
        sizes = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self.parts.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    sizes[path.name] = path.stat().st_size
        # A computer that lost its power can leave a file with a name and no content.
        return [i for i in self.samples if sizes.get(self._part(i).name) != self._part_bytes]

    def is_missing(self, sample: int) -> bool:
        """Whether a sample is not finished yet."""
        try:
            return self._part(sample).stat().st_size != self._part_bytes
        except FileNotFoundError:
            return True

    @contextlib.contextmanager
    def new_clips(
        self, samples: Sequence[int]
    ) -> Iterator[Callable[[UInt8[Tensor, "B n H W 3"]], None]]:
        """Write clips as their frames come; they appear when the block ends without an error.

        Yields:
            What writes the clips' next frames.
        """
        n_frames = 0
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(atomic_path(self._part(sample))) for sample in samples]
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for file in files:
                file.write(_npy_header(self._frame_shape))

            def write(frames: Tensor) -> None:
                nonlocal n_frames
                n_frames += frames.shape[1]
                for file, clip in zip(files, frames, strict=True):
                    file.write(np.ascontiguousarray(clip.numpy()).data)

            yield write
            assert n_frames == self._frame_shape[0], f"{n_frames} of {self._frame_shape[0]} frames"

    def keep_codes(self, samples: Sequence[int], canvas: Int[Tensor, "B N"]) -> None:
        """Write samples' codes so far, -1 where they are not known yet."""
        for sample, codes in zip(samples, canvas.cpu().numpy(), strict=True):
            write_npy(self._kept(sample), codes.astype(np.int32).reshape(self._latent_shape))

    def kept_codes(self, sample: int) -> Int[Tensor, " N"] | None:
        """Codes of a sample that were kept, -1 where they are not known yet; None for none."""
        try:
            codes = np.load(self._kept(sample), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # none, or one that is incomplete
            return None
        if codes.shape != self._latent_shape or codes.dtype != np.int32:
            return None
        return torch.from_numpy(codes).flatten().long()

    def _part(self, sample: int) -> Path:
        return self.parts / f"sample_{sample:05d}.npy"

    def _kept(self, sample: int) -> Path:
        return self.parts / f"sample_{sample:05d}.codes.npy"

    # --- results ------------------------------------------------------------------------------

    def join(self, *, with_codes: bool) -> None:
        """Put the finished samples into ``clips.npy``, and their codes into ``codes.npy``."""
        n_samples = len(self.samples)
        with _appending(self.path / _CLIPS, (n_samples, *self._frame_shape)) as file:
            for sample in self.samples:
                clip = np.load(self._part(sample), mmap_mode="r", allow_pickle=False)
                for start in range(0, len(clip), _FRAMES_PER_COPY):
                    piece = clip[start : start + _FRAMES_PER_COPY]
                    file.write(np.ascontiguousarray(piece).data)
        if with_codes:
            with _appending(self.path / _CODES, (n_samples, *self._latent_shape), "<i4") as file:
                for sample in self.samples:
                    codes = self.kept_codes(sample)
                    assert codes is not None, "a finished sample has its codes"
                    file.write(codes.numpy().astype("<i4").data)

    def clips(self) -> UInt8[np.ndarray, "n T H W 3"]:
        """The run's clips, read from disk as they are touched."""
        return np.load(self.path / _CLIPS, mmap_mode="r", allow_pickle=False)

    def result(self, outputs: Outputs) -> dict[str, Any]:
        """Say where the results are and how many clips there are."""
        result = {"clips": str(self.path / _CLIPS), "n_clips": len(self.samples)}
        return result | ({"videos": str(self.path / _VIDEOS)} if outputs.videos else {})

    def write_pictures(self, outputs: Outputs) -> Iterator[Path]:
        """Write the videos and pictures that are asked for and not there yet.

        Yields:
            What was written, after each.
        """
        clips = self.clips()
        if outputs.grids:
            yield from self._write_grids(clips, outputs.frame_rate)
        for sample, clip in zip(self.samples, clips, strict=True):
            path = self.path / _VIDEOS / f"sample_{sample:05d}.mp4"
            if outputs.videos and not path.exists():
                shown = (clip, None) if outputs.present is None else outputs.present(sample, clip)
                write_video(path, shown[0], outputs.frame_rate, shown[1])
                yield path
            folder = self.path / _FRAMES / f"sample_{sample:05d}"
            if outputs.frames and len(list(folder.glob("frame_*.png"))) < len(clip):
                write_frames(folder, clip)
                yield folder

    def _write_grids(self, clips: np.ndarray, frame_rate: float) -> Iterator[Path]:
        for start in range(0, len(clips), CLIPS_PER_GRID):
            group = clips[start : start + CLIPS_PER_GRID]
            first = self.samples[start]
            name = f"samples_{first:05d}-{first + len(group) - 1:05d}.mp4"
            path = self.path / _VIDEOS / name
            if not path.exists():
                n_rows = math.isqrt(len(group))
                frames = (video_grid(group[:, t, None], n_rows)[0] for t in range(group.shape[1]))
                write_video(path, frames, frame_rate)
                yield path

    # --- ends ---------------------------------------------------------------------------------

    def clear(self) -> None:
        """Delete the results and the finished samples; the record stays, marked unfinished."""
        self.write_record({**(self.record() or {}), "status": "unfinished"})
        for path in [*self.parts.glob("sample_*.npy"), *self.path.iterdir()]:
            if path.is_dir() and path.name in _LAYOUT:
                shutil.rmtree(path)
            elif path.parent == self.parts or path.name in _LAYOUT - {_RECORD}:
                path.unlink(missing_ok=True)

    def remove_parts(self) -> None:
        """Delete the finished samples, which are in the results now."""
        # Renamed first, so that no other process ever sees some of them missing.
        aside = self.path / f".parts-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            self.parts.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _appending(path: Path, shape: tuple[int, ...], dtype: str = "|u1") -> Iterator[BinaryIO]:
    """Write a .npy file whose bytes come piece by piece, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_npy_header(shape, dtype))
        yield file


def _npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    header = io.BytesIO()
    settings = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, settings)
    return header.getvalue()
