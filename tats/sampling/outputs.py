"""What a sampler leaves on disk: all clips in one array, pictures to look at, a record of the run.

Clips are written as they are made, so that a run of any size needs the memory of one batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tats.flags import check_writable
from tats.video_io import atomic_path, video_grid, write_frames, write_video

CLIPS_FILE = "clips.npy"
RECORD_FILE = "run.json"
GRID_FPS = 8  # frames a second: slow enough to look at sixteen frames
_REPOSITORY = Path(__file__).resolve().parent.parent.parent


@contextlib.contextmanager
def output_folder(args: Namespace) -> Iterator[Path]:
    """Make the folder of this run's results, and take it away again if the run leaves nothing.

    Args:
        args: the sampler's flags: save, dataset, top_p, top_k, run.

    Yields:
        ``save/dataset_topp0.92_topk2048_run0``, writable.

    Raises:
        UserError: it cannot be made or written.
    """
    name = f"{args.dataset}_topp{args.top_p:g}_topk{args.top_k}_run{args.run}"
    folder = Path(args.save).expanduser() / name
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    check_writable(folder, "save")
    try:
        yield folder
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # it holds results
                path.rmdir()
        raise


@contextlib.contextmanager
def clip_writer(
    folder: Path, *, n_clips: int, save_grids: bool = False, save_frames: bool = False
) -> Iterator[ClipWriter]:
    """Open the results of a run; ``clips.npy`` appears when all clips have come.

    Earlier results in the folder are replaced.

    Args:
        folder: an existing folder.
        n_clips: clips that will come, >= 1.
        save_grids: write each batch as one video of clips side by side.
        save_frames: write each clip's frames as PNGs.

    Yields:
        The writer.
    """
    for pattern in (CLIPS_FILE, RECORD_FILE, "grids/samples_*.mp4", "frames/sample_*/*.png"):
        for old in folder.glob(pattern):
            old.unlink()
    with atomic_path(folder / CLIPS_FILE) as path, path.open("wb") as array:
        writer = ClipWriter(
            folder, array, n_clips=n_clips, save_grids=save_grids, save_frames=save_frames
        )
        yield writer
        assert writer.n_written == n_clips, f"{writer.n_written} of {n_clips} clips came"


class ClipWriter:
    """Writes clips as they come; see ``clip_writer``."""

    def __init__(
        self, folder: Path, array: BinaryIO, *, n_clips: int, save_grids: bool, save_frames: bool
    ) -> None:
        self.folder = folder
        self.path = folder / CLIPS_FILE
        self.n_clips = n_clips
        self.save_grids = save_grids
        self.save_frames = save_frames
        self.n_written = 0
        self._array = array

    def add(self, indices: Sequence[int], clips: Tensor) -> None:
        """Write the next clips.

        Args:
            indices: number of each sample, for file names.
            clips: uint8 (B, T, H, W, 3), all batches of one clip shape.
        """
        pixels = clips.cpu().numpy()
        assert pixels.dtype == np.uint8
        if self.n_written == 0:
            header = {
                "descr": np.lib.format.dtype_to_descr(pixels.dtype),
                "fortran_order": False,
                "shape": (self.n_clips, *pixels.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(self._array, header)
        self._array.write(np.ascontiguousarray(pixels).data)
        self.n_written += len(pixels)
        if self.save_grids:
            name = f"samples_{indices[0]:05d}-{indices[-1]:05d}.mp4"
            grid = video_grid(pixels, nrow=math.isqrt(len(pixels)))
            write_video(self.folder / "grids" / name, grid, GRID_FPS)
        if self.save_frames:
            for index, clip in zip(indices, pixels, strict=True):
                write_frames(self.folder / "frames" / f"sample_{index:05d}", clip)


def write_record(
    folder: Path,
    *,
    argv: Sequence[str],
    args: Namespace,
    checkpoints: Sequence[str | Path],
    facts: Mapping[str, Any],
) -> None:
    """Write ``run.json``: everything needed to know, and to repeat, what lies beside it.

    Args:
        folder: where the results lie.
        argv: the command line after the script's name.
        args: the flags it resolved to.
        checkpoints: the model files used; they are recorded with their sha256.
        facts: further entries, such as seeds and scores.
    """
    record = {
        "argv": list(argv),
        "flags": vars(args),
        **facts,
        "checkpoints": {str(path): _sha256(Path(path).expanduser()) for path in checkpoints},
        "commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    with atomic_path(folder / RECORD_FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n")


def command_line(argv: Sequence[str] | None) -> list[str]:
    """Give the arguments a ``main(argv=None)`` works with."""
    return list(sys.argv[1:] if argv is None else argv)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _git_commit() -> str | None:
    """Commit this code was checked out at; None for an installed copy."""
    if not (_REPOSITORY / ".git").exists():
        return None
    command = ["git", "-C", str(_REPOSITORY), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
