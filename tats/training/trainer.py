"""From flags to a Lightning Trainer: devices, learning rates, checkpoints, resuming.

The flags carry the names of Lightning 1.5; here they meet today's Trainer.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tats.errors import UserError
from tats.flags import check_writable, passthrough_trainer_settings
from tats.training.callbacks import (
    AskedLearningRate,
    KeptCheckpoints,
    ReconstructionPictures,
    StepAxis,
    Throughput,
)
from tats.training.finite import SkipNotFinite
from tats.training.first import first_alone
from tats.training.newest import LOG_FOLDER, find_resume_checkpoint
from tats.training.precision import CastModule, choose_precision
from tats.training.resume import AccumulatedGradients, CheckedOptimizerStates
from tats.training.saving import WholeCheckpointIO
from tats.training.stopping import StopOnSignal, Stopped, report_stop

log = logging.getLogger(__name__)

DEFAULT_MAX_EPOCHS = 1000
# What Lightning warns of though it is as it should be, or not ours to change.
EXPECTED_WARNINGS = (
    ".*in eval mode at the start of training",  # the frozen first stage, the perceptual model
    ".*is not supported by the model summary",
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "The dirpath has changed",  # a resumed run gets a folder of its own
)
# Ways to share work that Lightning 1.5 knew and today's does not.
FORGOTTEN_STRATEGIES = ("dp", "ddp2", "horovod", "ddp_sharded", "ddp_sharded_spawn")
DDP_STRATEGIES = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
# Flags that reach the Trainer under their own name and with their own meaning.
SAME_MEANING = (
    "num_nodes",
    "max_steps",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "num_sanity_val_steps",
    "log_every_n_steps",
    "default_root_dir",
    "fast_dev_run",
    "deterministic",
    "benchmark",
    "profiler",
)


@dataclass(frozen=True)
class Stage:
    """What the training of one of the two models asks of the Trainer.

    Args:
        name: "vqgan" or "transformer", as checkpoints are told apart.
        monitor: the held-out figure by which the best checkpoints are chosen; lower is better.
        keep_every: periods, in steps, at which checkpoints are kept for good.
        steps_by_hand: the model accumulates and clips its gradients itself.
    """

    name: str
    monitor: str
    keep_every: tuple[int, ...]
    steps_by_hand: bool


VQGAN_STAGE = Stage("vqgan", "val/recon_loss", (3_000, 10_000), steps_by_hand=True)
TRANSFORMER_STAGE = Stage("transformer", "val/loss", (10_000, 50_000), steps_by_hand=False)


# --- learning rates ---------------------------------------------------------------------------


def vqgan_learning_rate(args: Namespace) -> float:
    """Scale ``--lr``, meant for 8 GPUs with 4 clips each, to this run.

    Source: the released training script.
    """
    scale = (args.accumulate_grad_batches or 1) * (_n_rate_devices(args) / 8) * args.batch_size / 4
    return scale * args.lr


def transformer_learning_rate(args: Namespace) -> float:
    """Scale ``--base_lr``, meant for one clip, to this run's whole batch.

    Source: the released training script.
    """
    n_clips = (args.accumulate_grad_batches or 1) * _n_rate_devices(args) * args.batch_size
    return n_clips * args.base_lr


def _n_rate_devices(args: Namespace) -> int:
    """Count the devices of the learning-rate rules: GPUs of one machine; a CPU run is one."""
    devices = choose_devices(args)
    return devices.count if devices.accelerator == "gpu" else 1


# --- devices ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Devices:
    """Where to train: the accelerator, what its ``devices`` setting is, and how many that is."""

    accelerator: str
    devices: int | list[int]

    @property
    def count(self) -> int:
        """Devices used on one machine."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)


def choose_devices(args: Namespace) -> Devices:
    """Read ``--gpus``, ``--accelerator``, ``--devices`` and ``--num_processes`` together.

    Raises:
        UserError: they contradict each other or ask for more than the machine has.
    """
    accelerator = None if args.accelerator in (None, *_strategy_names()) else args.accelerator
    if accelerator not in (None, "cpu", "gpu", "cuda", "auto"):
        raise UserError(f"--accelerator got {accelerator!r}; expected cpu, gpu or auto")
    n_present = torch.cuda.device_count()
    wanted_gpus = _parse_devices("gpus", args.gpus, n_present)
    if accelerator == "auto":
        accelerator = "gpu" if n_present or wanted_gpus else "cpu"
    if accelerator is None:
        accelerator = "gpu" if wanted_gpus else "cpu"
    if accelerator == "cpu":
        if wanted_gpus:
            raise UserError(f"--gpus got {args.gpus} with --accelerator cpu; expected one of them")
        processes = _parse_devices("devices", args.devices, 1) or args.num_processes
        if not isinstance(processes, int) or processes < 1:
            raise UserError(f"--devices got {args.devices}; expected a count of CPU processes")
        return Devices("cpu", processes)
    wanted = wanted_gpus or _parse_devices("devices", args.devices, n_present) or 1
    _check_gpus_exist("gpus" if wanted_gpus else "devices", wanted, n_present)
    return Devices("gpu", wanted)


def _parse_devices(flag: str, text: str | None, n_present: int) -> int | list[int]:
    """Read a count ("8"), all of them ("-1", "auto") or their ids ("0,2", "[0, 2]", "3,")."""
    if text is None:
        return 0
    if text == "auto":
        text = "-1"
    try:
        if any(mark in text for mark in ",["):
            return [int(part) for part in text.strip("[] ").split(",") if part.strip()]
        count = int(text)
    except ValueError:
        raise UserError(f"--{flag} got {text!r}; expected a count, a list of ids or -1") from None
    if count < -1:
        raise UserError(f"--{flag} got {count}; expected a count, a list of ids or -1")
    return max(n_present, 1) if count == -1 else count


def _check_gpus_exist(flag: str, wanted: int | list[int], n_present: int) -> None:
    needed = wanted if isinstance(wanted, int) else max(wanted) + 1
    if needed > n_present:
        shown = wanted if isinstance(wanted, int) else ",".join(map(str, wanted))
        raise UserError(
            f"--{flag} got {shown}; expected at most {n_present}, the GPUs this machine has: use"
            " --gpus 0 to train on the CPU"
        )


def _strategy_names() -> tuple[str, ...]:
    """Ways to share work; Lightning 1.5 took them as accelerators too."""
    return ("ddp", "ddp_spawn", *FORGOTTEN_STRATEGIES)


def _choose_strategy(args: Namespace, stage: Stage, devices: Devices) -> str:
    strategy = args.strategy
    if strategy is None and args.accelerator in _strategy_names():
        strategy = args.accelerator
    if strategy in FORGOTTEN_STRATEGIES:
        raise UserError(f"--strategy got {strategy}, which no longer exists; expected ddp")
    if strategy is None:
        strategy = "ddp" if devices.count * args.num_nodes > 1 else "auto"
    # Each of the two optimisers leaves the other's parameters without a gradient.
    if strategy in DDP_STRATEGIES and stage.steps_by_hand:
        strategy += "_find_unused_parameters_true"
    return strategy


# --- the Trainer ------------------------------------------------------------------------------


def build_trainer(args: Namespace, stage: Stage) -> pl.Trainer:
    """Turn flags into a Trainer; writes nothing yet.

    Args:
        args: flags of a training script.
        stage: which model is trained.

    Raises:
        UserError: a flag does not fit the machine, another flag, or today's Trainer.
    """
    devices = choose_devices(args)
    settings: dict[str, Any] = {name: getattr(args, name) for name in SAME_MEANING}
    settings |= {name: getattr(args, name) for name in passthrough_trainer_settings()}
    settings |= {
        "max_epochs": _max_epochs(args),
        "accelerator": devices.accelerator,
        "devices": devices.devices,
        "strategy": _choose_strategy(args, stage, devices),
        "sync_batchnorm": _wants_sync_batchnorm(args, devices),
        "use_distributed_sampler": args.use_distributed_sampler and args.replace_sampler_ddp,
        "enable_progress_bar": args.enable_progress_bar and args.progress_bar_refresh_rate != 0,
        "logger": _logger(args),
        "callbacks": _callbacks(args, stage),
        "plugins": [WholeCheckpointIO()],
    }
    precision = choose_precision(args.precision, devices.accelerator)
    if isinstance(precision, str):
        settings["precision"] = precision
    else:
        settings["plugins"].append(precision)
    if stage.steps_by_hand:  # Lightning takes each of its batches for a step
        settings["log_every_n_steps"] *= args.accumulate_grad_batches or 1
    else:
        settings["gradient_clip_val"] = args.gradient_clip_val
        settings["accumulate_grad_batches"] = args.accumulate_grad_batches
    try:
        return pl.Trainer(**settings)
    except (MisconfigurationException, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the Trainer does not take one of its flags: {reason}") from error


def _max_epochs(args: Namespace) -> int | None:
    """Limit a run that no flag limits, as Lightning 1.5 did."""
    unlimited = args.max_epochs is None and args.max_steps == -1 and args.max_time is None
    return DEFAULT_MAX_EPOCHS if unlimited else args.max_epochs


def _wants_sync_batchnorm(args: Namespace, devices: Devices) -> bool:
    """Share batch statistics wherever it is possible: as published, or as asked."""
    if devices.accelerator == "cpu":
        if args.sync_batchnorm:
            log.info("--sync_batchnorm has no effect on the CPU")
        return False
    return args.sync_batchnorm or devices.count * args.num_nodes > 1


def _logger(args: Namespace) -> Logger | bool:
    root = args.default_root_dir or "."
    if args.logger in (None, False):
        return False
    if args.logger == "csv":
        return CSVLogger(save_dir=root, name=LOG_FOLDER)
    if args.logger == "wandb":
        if importlib.util.find_spec("wandb") is None:
            raise UserError(
                "--logger got wandb, whose package is not installed; expected it, or tensorboard or"
                ' csv: pip install "tats[wandb]"'
            )
        return WandbLogger(save_dir=root, project=LOG_FOLDER)
    return TensorBoardLogger(save_dir=root, name=LOG_FOLDER)


def _callbacks(args: Namespace, stage: Stage) -> list[Callback]:
    callbacks: list[Callback] = [
        CheckedOptimizerStates(),
        AskedLearningRate(),
        AccumulatedGradients(),
        StepAxis(),
        Throughput(),
    ]
    if stage.name == VQGAN_STAGE.name:
        callbacks.append(ReconstructionPictures())
    kept = None
    if args.enable_checkpointing is not False and not args.fast_dev_run:
        every = args.checkpoint_every_n_steps
        periods = stage.keep_every if every is None else (every,)
        kept = KeptCheckpoints(
            periods, minutes=args.save_every_minutes, n_kept=args.keep_checkpoints
        )
        callbacks.append(kept)
        figure = stage.monitor.replace("/", "_")
        best = ModelCheckpoint(
            monitor=stage.monitor,
            save_top_k=3,
            filename=f"best-epoch={{epoch}}-step={{step}}-{figure}={{{stage.monitor}:.4f}}",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )
        callbacks.append(best)
    if args.enable_progress_bar and args.progress_bar_refresh_rate != 0:
        callbacks.append(TQDMProgressBar(refresh_rate=args.progress_bar_refresh_rate or 1))
    skip = SkipNotFinite(args.max_skipped_steps, leave=kept.leave_last if kept else None)
    callbacks.append(skip)
    if kept:
        kept.is_sound = lambda: not skip.n_in_a_row
    goes_on_by_itself = args.resume_from_checkpoint == "last"
    callbacks.append(StopOnSignal(kept.save_last if kept else None, requeue=goes_on_by_itself))
    return callbacks


# --- training ---------------------------------------------------------------------------------


def fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    args: Namespace,
    stage: Stage,
) -> None:
    """Train, from the start or from where ``--resume_from_checkpoint`` left off.

    Raises:
        UserError: the checkpoint or the data cannot be used, or the output folder not written.
        Stopped: a signal ended training.
    """
    checkpoint = find_resume_checkpoint(args, stage.name)
    with first_alone(args.data_path or ".", f"indexing {args.data_path}"):
        data.prepare_data()  # bad data are met before anything is written
    if not args.fast_dev_run:
        check_writable(args.default_root_dir or ".", "default_root_dir")
    if isinstance(trainer.precision_plugin, CastModule):
        trainer.precision_plugin.convert_module(model)  # before weights are restored, not after
    try:
        with warnings.catch_warnings():
            for message in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    except MisconfigurationException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the Trainer does not take one of its flags: {reason}") from error
    except Stopped as stopped:
        report_stop(stopped, trainer)
        raise
