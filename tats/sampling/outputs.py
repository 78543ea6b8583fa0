"""What a sampler leaves on disk: all clips in one array, pictures to look at, a record of the run.

Frames are written as they are made, so that a run of any size needs the memory of one batch of
tokens and one piece of one clip.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import platform
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tats.flags import DATA_FLAGS, check_writable
from tats.paths import atomic_path
from tats.sampling.parts import Parts
from tats.sampling.ranks import own_share, rank
from tats.sampling.videos import VideoSampler
from tats.video_io import video_grid, write_frames, write_video

if TYPE_CHECKING:
    from tats.evaluation.fvd import FvdMeter

log = logging.getLogger(__name__)

CLIPS_FILE = "clips.npy"
RECORD_FILE = "run.json"
CLIPS_PER_GRID = 16  # where the batch size is automatic
SECONDS_TO_WAIT = 0.5
SHARE_OF_MEMORY = 0.6  # of what is free: other tensors want some too
UNKNOWN_MEMORY = 2 << 30  # bytes to count on where the system does not say
LARGEST_BATCH_ON_CPU, LARGEST_BATCH_ON_GPU = 32, 256
# Flags that change neither a clip nor the files it is written to.
FLAGS_BESIDE_THE_CLIPS = {flag.name for flag in DATA_FLAGS} | {"save", "compute_fvd"}
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


def write_samples(
    sampler: VideoSampler,
    args: Namespace,
    folder: Path,
    *,
    argv: Sequence[str],
    checkpoints: Sequence[str],
    save_frames: bool = False,
    meter: FvdMeter | None = None,
) -> dict[str, Any] | None:
    """Sample a run's clips, or what is left of them, and write them.

    Of several processes each makes its share, and the first one writes the results when all
    samples are there.

    Args:
        sampler: makes the clips.
        args: the sampler's flags: n_sample, run, batch_size, save_videos.
        folder: where the results go.
        argv: the command line, for the record.
        checkpoints: files of the models.
        save_frames: with ``--save_videos``, write every frame as a picture too.
        meter: scores the clips; the first process's alone.

    Returns:
        What to tell the user: where the clips are, how many, and their scores; None from all
        processes but the first.
    """
    indices = sample_indices(args)
    record = describe_run(sampler, args, checkpoints)
    parts = Parts(folder, record, sampler.clip_shape)
    if rank() == 0:
        for name in (CLIPS_FILE, RECORD_FILE):
            (folder / name).unlink(missing_ok=True)
    _sample_missing(
        sampler, parts, indices, args.batch_size,
        frames=folder / "frames" if args.save_videos and save_frames else None,
    )  # fmt: skip
    if rank() > 0:
        return None
    while left := parts.missing(indices):
        log.info("waiting for %d samples of the other processes", len(left))
        time.sleep(SECONDS_TO_WAIT)
    parts.join(folder / CLIPS_FILE, indices)
    _write_pictures(parts, args, folder, indices, save_frames)
    result: dict[str, Any] = {"clips": str(folder / CLIPS_FILE), "n_clips": len(indices)}
    if meter is not None:
        for index in indices:
            meter.add(torch.from_numpy(np.array(parts.clip(index)))[None])
        result |= meter.scores()
    _write_record(folder, {"argv": list(argv), "result": result, **record, "flags": vars(args)})
    parts.remove()
    return result


def sample_indices(args: Namespace) -> range:
    """Numbers of a run's samples: run r follows on from run r - 1."""
    return range(args.run * args.n_sample, (args.run + 1) * args.n_sample)


def _sample_missing(
    sampler: VideoSampler,
    parts: Parts,
    indices: range,
    batch_size: int | Literal["auto"],
    frames: Path | None,
) -> None:
    """Make this process's samples that are not on disk yet, with a progress bar."""
    share = own_share(indices)
    todo = parts.missing(share)
    if len(todo) < len(share):
        log.warning("going on: %d of %d samples are there", len(share) - len(todo), len(share))
    if batch_size == "auto":
        batch_size = fitting_batch_size(sampler)
        log.info("--batch_size auto: %d", batch_size)
    with tqdm(total=len(todo), unit="clip", desc="sampling", disable=rank() > 0) as progress:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            for index, pieces in zip(batch, sampler.clips(batch), strict=True):
                if frames is not None:
                    pieces = _with_pictures(pieces, frames / f"sample_{index:05d}")
                parts.write(index, pieces)
                progress.update()


def _with_pictures(pieces: Iterator[Tensor], folder: Path) -> Iterator[Tensor]:
    """Write every frame that passes as a PNG."""
    n_frames = 0
    for piece in pieces:
        write_frames(folder, piece.numpy(), first=n_frames)
        n_frames += len(piece)
        yield piece


def _write_pictures(
    parts: Parts, args: Namespace, folder: Path, indices: range, save_frames: bool
) -> None:
    """Write each batch as a video of clips side by side; clear away an earlier run's pictures."""
    for old in folder.glob("grids/samples_*.mp4"):
        old.unlink()
    mine = {f"sample_{i:05d}" for i in indices} if args.save_videos and save_frames else set()
    for old in folder.glob("frames/sample_*"):
        if old.name not in mine:
            shutil.rmtree(old)
    if not args.save_videos:
        return
    size = CLIPS_PER_GRID if args.batch_size == "auto" else args.batch_size
    for start in range(0, len(indices), size):
        group = indices[start : start + size]
        clips = [parts.clip(index) for index in group]
        frames = (
            video_grid(np.stack([clip[t] for clip in clips])[:, None], math.isqrt(len(clips)))[0]
            for t in range(len(clips[0]))
        )
        name = f"samples_{group[0]:05d}-{group[-1]:05d}.mp4"
        write_video(folder / "grids" / name, frames, GRID_FPS)


def fitting_batch_size(sampler: VideoSampler) -> int:
    """Guess how many samples the device's free memory holds, up to where more are no faster."""
    device = sampler.device
    if device.type == "cuda":
        free, most = torch.cuda.mem_get_info(device)[0], LARGEST_BATCH_ON_GPU
    else:
        free, most = _free_memory(), LARGEST_BATCH_ON_CPU
    needed = max(level.bytes_per_sample for level in sampler.levels)
    return max(1, min(most, int(free * SHARE_OF_MEMORY / needed)))


def _free_memory() -> int:
    """Free memory of this machine in bytes."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return UNKNOWN_MEMORY


def describe_run(
    sampler: VideoSampler, args: Namespace, checkpoints: Sequence[str]
) -> dict[str, Any]:
    """List everything a run's clips depend on, for ``run.json`` and to tell runs apart.

    Args:
        sampler: makes the clips.
        args: the flags; those that say where clips go or what they are compared with are left
            out.
        checkpoints: the model files; they are recorded with their sha256.

    Returns:
        Plain values.
    """
    indices = sample_indices(args)
    known = sampler.known
    return {
        "flags": {k: v for k, v in vars(args).items() if k not in FLAGS_BESIDE_THE_CLIPS},
        "samples": [indices.start, indices.stop],
        "seeds": [sampler.seed + indices.start, sampler.seed + indices.stop],
        "clip_shape": list(sampler.clip_shape),
        "latent_shape": list(sampler.latent_shape),
        "known_codes": None if known is None else known.flatten().tolist(),
        "device": str(sampler.device),
        # Tokens of the vocabulary that are no codes, so that they are never drawn (D5).
        "masked_condition_tokens": sampler.levels[0].model.cond_vocab_size,
        "checkpoints": {path: _sha256(Path(path).expanduser()) for path in checkpoints},
        "commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``: everything needed to know, and to repeat, what lies beside it."""
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
