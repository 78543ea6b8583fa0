"""Which checkpoint ``--resume_from_checkpoint`` means."""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from pathlib import Path

from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_info

from tats.errors import UserError
from tats.training.resume import FLAG
from tats.training.saving import not_finite
from tats.weights.checkpoint import read_checkpoint, read_content

log = logging.getLogger(__name__)

LOG_FOLDER = "lightning_logs"
# Where checkpoints of ours and of Lightning lie under --default_root_dir: those of a logged run,
# those of a run without a log, and what Lightning leaves on SLURM's signal.
PLACES = (f"{LOG_FOLDER}/*/checkpoints/*.ckpt", "checkpoints/*.ckpt", "hpc_ckpt_*.ckpt")
_STEP_IN_NAME = re.compile(r"(?:^|-)step=(\d+)")  # in epoch=1-step=20, best-epoch=1-step=20-…


def find_resume_checkpoint(args: Namespace, stage: str) -> str | None:
    """Find and read through the checkpoint to continue from.

    Args:
        args: flags of a training script.
        stage: which model the checkpoint must hold, "vqgan" or "transformer".

    Returns:
        Its path; None to start afresh, as ``last`` does, with a warning, before any was written.

    Raises:
        UserError: the file named is missing, broken or holds the other model.
    """
    wanted, root = args.resume_from_checkpoint, Path(args.default_root_dir or ".")
    if wanted is None:
        _refuse_slurms(root)
        return None
    if wanted != "last":
        return str(read_checkpoint(wanted, flag=FLAG, stage=stage).path)
    found = newest_checkpoint(root, stage)
    if found is None:
        log.warning("%s last found no checkpoint under %s: starting afresh", FLAG, root)
        return None
    path, step = found
    rank_zero_info(f"{FLAG} last takes {path}, step {step}")
    return str(path)


def newest_checkpoint(root: Path, stage: str) -> tuple[Path, int] | None:
    """Find the checkpoint of most steps, among equals the one written last.

    Files that are cut, hold another model or are not finite are passed over, with a warning each.

    Args:
        root: the folder given as ``--default_root_dir``.
        stage: which model the checkpoint must hold.

    Returns:
        Its path and the steps done.
    """
    found = []
    for path in (path for place in PLACES for path in root.glob(place)):
        try:
            found.append((_step_of(path), path.stat().st_mtime_ns, path))
        except (UserError, OSError) as error:
            _pass_over(error)
    for step, _, path in sorted(found, reverse=True):
        try:
            read_checkpoint(path, flag=FLAG, stage=stage)
            if bad := not_finite(read_content(path, flag=FLAG)):
                raise UserError(f"{path} holds NaN or infinite values in {bad}")
        except UserError as error:
            _pass_over(error)
        else:
            return path, step
    return None


def _step_of(path: Path) -> int:
    """Tell a checkpoint's steps by its name, or by its content where the name says nothing."""
    named = _STEP_IN_NAME.search(path.stem)
    if named:
        return int(named[1])
    step = read_content(path, flag=FLAG).get("global_step")
    return step if isinstance(step, int) else 0


def _pass_over(error: Exception) -> None:
    log.warning("%s last passes over a file: %s", FLAG, " ".join(str(error).split()))


def _refuse_slurms(root: Path) -> None:
    """Keep the Trainer from going on from SLURM's file unasked, which it does on SLURM."""
    files = sorted(root.glob("hpc_ckpt_*.ckpt"))
    if files and SLURMEnvironment.detect():
        raise UserError(
            f"{FLAG} got nothing, with {files[-1]} there, from which the Trainer goes on unasked;"
            f" expected {FLAG} last to go on, or another --default_root_dir to start afresh"
        )
