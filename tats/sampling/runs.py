"""Runs of a sampler: known by what their output depends on, kept apart, resumable, shared.

A run is a sampler, a seed and a range of sample numbers. ``run_identity`` hashes everything its
output depends on, and nothing else: neither the device, the machine, the batch size, nor what is
written beside the clips. The hash is part of the folder's name, so two runs never touch each
other's files, and the same command finds its own:

    unfinished  it continues after the samples, and within a sample after the codes, it has
    finished    nothing is sampled; pictures that were not asked for before are written
    --overwrite this run's results are deleted, and it starts over

Any number of processes may work on one run (``claims``): each begins with its own share and then
helps where samples are left; the first one, or every one that believes it is, waits for the
others' last samples, takes over what dead processes leave, and writes the results (``run_files``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from tats.errors import UserError
from tats.sampling.claims import Claims, Waiting
from tats.sampling.ranks import own_share, rank
from tats.sampling.run_files import Outputs, RunFolder

if TYPE_CHECKING:
    from tats.evaluation.fvd import FvdMeter

log = logging.getLogger(__name__)

SECONDS_BETWEEN_KEEPS = 30.0
SECONDS_TO_AWAIT_THE_FIRST = 600.0
SHARE_OF_MEMORY = 0.6  # of what is free: other tensors need some too
UNKNOWN_MEMORY = 2 << 30  # bytes to count on where the system does not say
LARGEST_BATCH_ON_CPU, LARGEST_BATCH_ON_GPU = 32, 256
BYTES_SCORED_TOGETHER, CLIPS_SCORED_TOGETHER = 1 << 28, 16
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_BEGAN = time.monotonic()
_REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Sampler(Protocol):
    """Makes the clip of a sample's number, the same one in any batch, process and sitting."""

    @property
    def seed(self) -> int:
        """With a sample's number, it decides the sample's random numbers."""

    @property
    def device(self) -> torch.device:
        """Where codes are sampled."""

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the clips."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the clips' codes."""

    @property
    def bytes_per_sample(self) -> int:
        """Memory one sample takes while its codes are written."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything a sample depends on besides the seed and its number, as plain values."""

    def checkpoints(self) -> Mapping[str, Mapping[str, str]]:
        """Each model's flag: the text "given", the "file" it stands for, and its "sha256"."""

    def describe(self, sample: int) -> dict[str, Any]:
        """What a sample is made from, as plain values."""

    def new_canvas(self, samples: Sequence[int]) -> Int[Tensor, "B N"]:
        """Lay out samples' codes, -1 where they are to be sampled."""

    def stream(
        self, samples: Sequence[int], canvas: Int[Tensor, "B N"]
    ) -> Iterator[UInt8[Tensor, "B n H W 3"]]:
        """Fill a canvas in place, from where it stands; yield all frames in order, on the CPU.

        It yields after every window, also where there are no new frames (n = 0).
        """


def write_run(
    sampler: Sampler,
    save: str | Path,
    *,
    name: str,
    samples: range,
    batch_size: int | Literal["auto"] = "auto",
    outputs: Outputs | None = None,
    overwrite: bool = False,
    meter: FvdMeter | None = None,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Sample a run's clips, or what is left of them, and write them.

    Args:
        sampler: makes the clips.
        save: folder of all results; the run gets a folder of its own in it.
        name: of the run's folder; its identity is appended.
        samples: numbers of the samples, see ``sample_range``.
        batch_size: samples made together; "auto" for what the memory holds.
        outputs: what to write beside ``clips.npy`` and ``run.json``.
        overwrite: delete an earlier result of this very run.
        meter: scores the clips; the first process's alone.
        record: what else ``run.json`` tells, such as the command line.

    Returns:
        What to tell the user: where the clips are, how many, and their scores; None from all
        processes but the first.

    Raises:
        UserError: the folder holds something else or cannot be written, or another process works
            on a run that is to be overwritten.
    """
    assert len(samples) > 0
    outputs = Outputs() if outputs is None else outputs
    identity = run_identity(sampler, samples)
    folder = RunFolder(
        Path(save).expanduser() / f"{name}-{identity[:8]}",
        samples,
        clip_shape=sampler.clip_shape,
        latent_shape=sampler.latent_shape,
    )
    facts = {"status": "unfinished", **(record or {}), **describe_run(sampler, samples, identity)}
    with _disk_errors_in_one_line(folder.path):
        folder.check_own(identity)
        if rank() > 0 and overwrite and not _first_process_came(folder):
            return None
        with Claims(folder.parts) as claims:
            _begin(folder, claims, facts, outputs, overwrite=overwrite and rank() == 0)
            while True:
                _sample(sampler, folder, claims, batch_size)
                with claims.lock():
                    if rank() == 0 and not folder.is_finished() and folder.missing():
                        continue  # somebody deleted them
                    result = _finish(folder, facts, outputs, meter, claims) if rank() == 0 else None
                    if folder.is_finished():
                        folder.remove_parts()
                    return result


def sample_range(n_sample: int, run: int) -> range:
    """Numbers of a run's samples: run r follows on from run r - 1."""
    return range(run * n_sample, (run + 1) * n_sample)


def run_identity(sampler: Sampler, samples: range) -> str:
    """Hash everything a run's output depends on, and nothing else.

    Args:
        sampler: makes the clips.
        samples: their numbers.

    Returns:
        A sha256, in hexadecimal.
    """
    parts = _identity_parts(sampler, samples)
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity_parts(sampler: Sampler, samples: range) -> dict[str, Any]:
    return {
        "sampler": dict(sampler.identity),
        "seed": sampler.seed,
        "samples": [samples.start, samples.stop],
    }


def describe_run(sampler: Sampler, samples: range, identity: str) -> dict[str, Any]:
    """List what ``run.json`` says of a run beside its command line and its result.

    Args:
        sampler: makes the clips.
        samples: their numbers.
        identity: of the run.

    Returns:
        Plain values.
    """
    return {
        "identity": identity,
        "depends_on": _identity_parts(sampler, samples),
        "checkpoints": {flag: dict(file) for flag, file in sampler.checkpoints().items()},
        "seed": sampler.seed,
        "samples": [{"sample": sample, **sampler.describe(sample)} for sample in samples],
        "clip_shape": list(sampler.clip_shape),
        "latent_shape": list(sampler.latent_shape),
        "device": str(sampler.device),
        "commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def fitting_batch_size(sampler: Sampler) -> int:
    """Guess how many samples the device's free memory holds, up to where more are no faster."""
    device = sampler.device
    if device.type == "cuda":
        free, most = torch.cuda.mem_get_info(device)[0], LARGEST_BATCH_ON_GPU
    else:
        free, most = _free_memory(), LARGEST_BATCH_ON_CPU
    return max(1, min(most, int(free * SHARE_OF_MEMORY / sampler.bytes_per_sample)))


# --- the three steps of a run -----------------------------------------------------------------


def _first_process_came(folder: RunFolder) -> bool:
    """Wait until the first process of this launch, which alone deletes, has begun the run anew.

    It has when the record is younger than this process.
    """
    waiting = Waiting()
    while not _is_younger_than_this_process(folder.path):
        if waiting.seconds > SECONDS_TO_AWAIT_THE_FIRST:
            log.warning("the first process did not come; leaving %s to it", folder.path)
            return False
        waiting.go_on("waiting for the first process to delete the old result in %s", folder.path)
    return True


def _is_younger_than_this_process(folder: Path) -> bool:
    try:
        written = (folder / "run.json").stat().st_mtime
    except FileNotFoundError:
        return False
    probe = folder / f".clock-{id(folder)}-{time.monotonic_ns()}"
    try:
        probe.touch()
        return probe.stat().st_mtime - written < time.monotonic() - _BEGAN
    finally:
        probe.unlink(missing_ok=True)


def _begin(
    folder: RunFolder,
    claims: Claims,
    facts: Mapping[str, Any],
    outputs: Outputs,
    *,
    overwrite: bool,
) -> None:
    """Write down what the run is, so that its folder says so from the start."""
    with claims.lock():
        alone = claims.others() == 0
        if overwrite and not alone:
            raise UserError(
                f"--overwrite got {folder.path}, which another process works on; wait for it or "
                "stop it first"
            )
        if overwrite:
            folder.clear()
            folder.write_record(facts)
        if alone:
            claims.sweep()
        if folder.record() is None:
            folder.write_record(facts)
        if folder.is_finished() and outputs.codes and not folder.has_codes():
            raise UserError(
                f"--save_codes: {folder.path} is finished and was made without it; add "
                "--overwrite to sample it again"
            )


def _sample(
    sampler: Sampler, folder: RunFolder, claims: Claims, batch_size: int | Literal["auto"]
) -> None:
    """Make samples until none is left; the first process sees to it that all are there."""
    if folder.is_finished():
        log.warning("%s is finished: nothing is sampled again", folder.path)
        return
    n_samples, missing = len(folder.samples), folder.missing()
    if len(missing) < n_samples:
        log.warning("going on: %d of %d samples are there", n_samples - len(missing), n_samples)
    if batch_size == "auto":
        batch_size = fitting_batch_size(sampler)
        log.info("--batch_size auto: %d", batch_size)
    waiting = Waiting()
    n_frames = sampler.clip_shape[0]
    with tqdm(total=n_samples * n_frames, unit="frame", disable=rank() > 0) as bar:
        while (missing := folder.missing()) and not folder.is_finished():
            bar.update((n_samples - len(missing)) * n_frames - bar.n)
            if batch := _take(folder, claims, missing, batch_size):
                try:
                    _sample_batch(sampler, folder, claims, batch, bar)
                except UserError:
                    if not folder.is_finished():  # by others, while this process was asleep
                        raise
                waiting = Waiting()
            elif rank() > 0:
                return
            else:
                waiting.go_on(
                    "waiting for %d of %d samples, which %d other processes make",
                    len(missing), n_samples, claims.others(),
                )  # fmt: skip


def _take(folder: RunFolder, claims: Claims, missing: Sequence[int], size: int) -> list[int]:
    """Claim samples to make together: of this process's share, and then of the others'.

    Samples of a batch are equally far along, so that none of them has to start over.
    """
    own = set(own_share(folder.samples))
    batch: list[int] = []
    n_known = -1
    for sample in sorted(missing, key=lambda sample: sample not in own):
        codes = folder.kept_codes(sample)
        n_sample_known = 0 if codes is None else int((codes >= 0).sum())
        if batch and n_sample_known != n_known:
            continue
        if not claims.take(_claim(sample)):
            continue
        if not folder.is_missing(sample):  # finished since we looked
            claims.give_back(_claim(sample))
            continue
        batch.append(sample)
        n_known = n_sample_known
        if len(batch) == size:
            break
    return batch


def _claim(sample: int) -> str:
    return f"sample_{sample:05d}"


def _sample_batch(
    sampler: Sampler, folder: RunFolder, claims: Claims, batch: Sequence[int], bar: tqdm[Any]
) -> None:
    """Make the samples of a batch, from where an interrupted process left them."""
    canvas = sampler.new_canvas(batch)
    for row, sample in zip(canvas, batch, strict=True):
        if (codes := folder.kept_codes(sample)) is not None:
            row.copy_(torch.where(row < 0, codes.to(row), row))
    with folder.new_clips(batch) as write:
        kept = time.monotonic()
        for frames in sampler.stream(batch, canvas):
            write(frames)
            bar.update(frames.shape[0] * frames.shape[1])
            claims.progress()
            if time.monotonic() - kept > SECONDS_BETWEEN_KEEPS:
                folder.keep_codes(batch, canvas)
                kept = time.monotonic()
        folder.keep_codes(batch, canvas)
    for sample in batch:
        claims.give_back(_claim(sample))


def _finish(
    folder: RunFolder,
    facts: Mapping[str, Any],
    outputs: Outputs,
    meter: FvdMeter | None,
    claims: Claims,
) -> dict[str, Any]:
    """Write the results; of a finished run, what is asked for and not there yet."""
    record = folder.record() or {}
    result: dict[str, Any] = {}
    if folder.is_finished():
        result = record.get("result", {})
    else:
        record = dict(facts)
        folder.join(with_codes=outputs.codes)
    for _ in folder.write_pictures(outputs):
        claims.progress()
    result = {**result, **folder.result(outputs)}
    if meter is not None:
        result |= _scores(folder.clips(), meter, claims)
    folder.write_record({**record, "status": "finished", "result": result})
    return result


def _scores(
    clips: UInt8[np.ndarray, "n T H W 3"], meter: FvdMeter, claims: Claims
) -> dict[str, Any]:
    """Compare the clips with the real ones, in the same batches whatever the run's were."""
    fit = BYTES_SCORED_TOGETHER // max(1, clips[0].nbytes)
    size = max(1, min(CLIPS_SCORED_TOGETHER, fit))
    for start in range(0, len(clips), size):
        meter.add(torch.from_numpy(np.array(clips[start : start + size])))
        claims.progress()
    return meter.scores()


@contextlib.contextmanager
def _disk_errors_in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); mend that, then give the same "
            "command again: it goes on with what is there"
        ) from error


def _free_memory() -> int:
    """Free memory of this machine in bytes."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return UNKNOWN_MEMORY


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
