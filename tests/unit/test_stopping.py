"""Training that is stopped leaves its state and says so; what is written is whole and finite."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hostile_files import good_content
from lightning_fabric.plugins.environments import SLURMEnvironment
from load_script import REPOSITORY, load_script
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import MixedPrecision
from small_data import write_video_folders
from test_training import (
    ACCUMULATED,
    NoiseData,
    Slope,
    Watch,
    read,
    train_vqgan,
    trainer_args,
    vqgan_args,
)
from tiny import tiny_transformer, tiny_vqgan

from tats.data.datamodule import ClipLoader
from tats.data.workers import leave_signals_alone
from tats.errors import UserError
from tats.training import trainer as training
from tats.training.newest import find_resume_checkpoint, newest_checkpoint
from tats.training.saving import WholeCheckpointIO
from tats.training.stopping import Stopped
from tats.training.trainer import TRANSFORMER_STAGE, build_trainer, fit


def last_of(folder: Path, version: int = 0) -> Path:
    return folder / "lightning_logs" / f"version_{version}" / "checkpoints" / "last.ckpt"


class At(Callback):
    """Do something at a batch of training or of validation, and count the batches after it."""

    def __init__(self, batch: int, do: Callable[[pl.Trainer], None], hook: str = "train") -> None:
        self.batch, self.do, self.hook = batch, do, hook
        self.n_later = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        n = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self.n_later += n > self.batch
        if self.hook == "train" and n == self.batch:
            self.do(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: Any, batch: Any, batch_index: int, *_: Any
    ) -> None:
        if self.hook == "val" and not trainer.sanity_checking and batch_index == self.batch:
            self.do(trainer)


def send(*signums: int) -> Callable[[pl.Trainer], None]:
    def do(trainer: pl.Trainer) -> None:
        for signum in signums:
            os.kill(os.getpid(), signum)

    return do


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_leaves_the_state_of_the_step_under_way_and_a_line(name, tmp_path, capfd):
    signum = getattr(signal, name)
    before = [signal.getsignal(one) for one in signal.valid_signals()]
    watch = At(2, send(signum))
    with pytest.raises(SystemExit) as exit_:
        train_vqgan(tmp_path, "--max_steps 9", watch)
    assert exit_.value.code == 128 + signum
    assert watch.n_later == 0
    assert read(last_of(tmp_path))["global_step"] == 2
    error = capfd.readouterr().err
    (line,) = [line for line in error.splitlines() if "stopped by" in line]
    assert f"stopped by {name} after step 2; {last_of(tmp_path)} holds it" in line
    assert "--resume_from_checkpoint last" in line
    assert "Traceback" not in error
    assert [signal.getsignal(one) for one in signal.valid_signals()] == before


def test_a_stopped_run_goes_on_from_the_state_it_was_stopped_in(tmp_path):
    with pytest.raises(Stopped):
        train_vqgan(tmp_path, "--max_steps 4", At(2, send(signal.SIGTERM)))
    content, watch = read(last_of(tmp_path)), Watch()
    train_vqgan(tmp_path, "--max_steps 4 --resume_from_checkpoint last", watch)
    assert watch.step == 2
    for name, tensor in content["state_dict"].items():
        assert torch.equal(watch.weights[name], tensor), name
    assert read(last_of(tmp_path, 1))["global_step"] == 4


def test_a_step_of_several_batches_is_finished_before_stopping(tmp_path):
    watch = At(3, send(signal.SIGTERM))
    with pytest.raises(Stopped):
        train_vqgan(tmp_path, f"--max_steps 9 --accumulate_grad_batches {ACCUMULATED}", watch)
    assert watch.n_later == 1
    assert read(last_of(tmp_path))["global_step"] == 2


def test_signals_while_the_state_is_written_do_no_harm(tmp_path, monkeypatch):
    write = WholeCheckpointIO.save_checkpoint

    def disturbed(self: Any, *given: Any, **named: Any) -> None:
        send(signal.SIGINT, signal.SIGTERM)(None)  # type: ignore[arg-type]
        write(self, *given, **named)
        send(signal.SIGINT)(None)  # type: ignore[arg-type]

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", disturbed)
    with pytest.raises(Stopped) as stopped:
        train_vqgan(tmp_path, "--max_steps 9", At(2, send(signal.SIGTERM)))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert read(last_of(tmp_path))["global_step"] == 2
    assert [path.name for path in last_of(tmp_path).parent.iterdir()] == ["last.ckpt"]


def test_a_signal_within_validation_stops_there_and_training_goes_on_with_the_next_step(tmp_path):
    often = "--val_check_interval 2 --num_sanity_val_steps 0 --max_steps 4"
    with pytest.raises(Stopped):
        train_vqgan(tmp_path, often, At(0, send(signal.SIGTERM), "val"))
    assert read(last_of(tmp_path))["global_step"] == 2
    started_at: list[int] = []
    watch = At(3, lambda trainer: started_at.append(trainer.global_step))
    train_vqgan(tmp_path, f"{often} --resume_from_checkpoint last", watch)
    assert started_at == [2]
    assert read(last_of(tmp_path, 1))["global_step"] == 4


def test_a_signal_before_the_first_step_ends_at_once(tmp_path, capfd):
    class Early(Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
            send(signal.SIGINT)(trainer)

    with pytest.raises(Stopped) as stopped:
        train_vqgan(tmp_path, "--max_steps 9", Early())
    assert stopped.value.code == 130
    assert "stopped by SIGINT before the first step; nothing was written" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(("by_itself", "expected"), [(True, ["requeue 3_7"]), (False, [])])
def test_slurms_signal_puts_a_job_that_goes_on_by_itself_back_into_the_queue(
    by_itself, expected, tmp_path, monkeypatch, capfd
):
    tool, calls = tmp_path / "bin" / "scontrol", tmp_path / "calls"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    slurm = {"JOB_ID": 10, "ARRAY_JOB_ID": 3, "ARRAY_TASK_ID": 7, "JOB_NAME": "interactive"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    resume = "--resume_from_checkpoint last" if by_itself else ""
    with pytest.raises(Stopped):
        train_vqgan(tmp_path, f"--max_steps 9 {resume}", At(1, send(signal.SIGUSR1)))
    assert (calls.read_text().splitlines() if calls.exists() else []) == expected
    assert ("SLURM starts job 3_7 again" in capfd.readouterr().err) == by_itself
    assert not list(tmp_path.glob("hpc_ckpt*"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_video_folders(root, {f"{split}/cats/a": 11 for split in ("train", "test")})
    return root


SMALL = (
    "--resolution 16 --sequence_length 8 --batch_size 2 --embedding_dim 8 --n_codes 32"
    " --n_hiddens 4 --norm_type batch --disc_channels 4 --disc_layers 2 --no_random_restart"
    " --progress_bar_refresh_rate 0 --enable_model_summary false --num_sanity_val_steps 0"
    " --limit_val_batches 0 --log_every_n_steps 1"
)


def test_clips_are_read_on_when_a_signal_reaches_all_processes(videos, tmp_path, monkeypatch):
    def signal_all(trainer: pl.Trainer) -> None:
        readers = multiprocessing.active_children()
        assert len(readers) == 2
        for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            for reader in readers:  # a shell stands for whoever ends the job: not our process
                os.system(f"kill -{int(signum)} {reader.pid}")
        time.sleep(0.5)
        assert all(reader.is_alive() for reader in readers)
        send(signal.SIGTERM)(trainer)

    callbacks, stop = training._callbacks, At(1, signal_all)
    monkeypatch.setattr(training, "_callbacks", lambda *given: [*callbacks(*given), stop])
    places = f"--data_path {videos} --default_root_dir {tmp_path} --num_workers 2"
    with pytest.raises(Stopped):
        command = f"{places} {SMALL} --max_steps 9 --accumulate_grad_batches 2"
        load_script("train_vqgan.py").main(command.split())
    assert read(last_of(tmp_path))["global_step"] == 1
    assert stop.n_later == 1
    assert not multiprocessing.active_children()


def slowly_leave_signals_alone(worker: int) -> None:
    time.sleep(1.0)
    leave_signals_alone(worker)


def test_signals_that_come_while_readers_start_pass_by_them_too():
    dataset, before = list(range(8)), signal.pthread_sigmask(signal.SIG_BLOCK, set())
    loader = ClipLoader(dataset, num_workers=2, worker_init_fn=slowly_leave_signals_alone)
    batches = iter(loader)
    for reader in multiprocessing.active_children():
        for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.system(f"kill -{int(signum)} {reader.pid}")
    assert [int(batch) for batch in batches] == dataset
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before


def test_the_training_process_can_end_those_that_read_for_it():
    context = multiprocessing.get_context("fork")
    reader = context.Process(target=_read_for_ever)
    reader.start()
    time.sleep(0.5)
    reader.terminate()
    reader.join(10)
    assert reader.exitcode == 143


def _read_for_ever() -> None:
    leave_signals_alone(0)
    time.sleep(60)


# --- last.ckpt --------------------------------------------------------------------------------


def test_the_last_checkpoint_follows_training_by_the_clock(tmp_path):
    steps: list[int] = []
    look = At(4, lambda trainer: steps.append(read(last_of(tmp_path))["global_step"]))
    train_vqgan(tmp_path, "--max_steps 5 --save_every_minutes 1e-9", look)
    assert steps == [3]
    assert read(last_of(tmp_path))["global_step"] == 5


def test_without_a_period_the_last_checkpoint_is_written_at_the_end_alone(tmp_path):
    there: list[bool] = []
    look = At(4, lambda trainer: there.append(last_of(tmp_path).exists()))
    train_vqgan(tmp_path, "--max_steps 5 --save_every_minutes 0", look)
    assert there == [False] and last_of(tmp_path).exists()


def test_checkpoints_are_staged_beside_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    train_vqgan(tmp_path, "--max_steps 1")
    assert read(last_of(tmp_path))["global_step"] == 1


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """Let the system refuse to make any file longer, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_loses_nothing_written_before(tmp_path):
    path = tmp_path / "last.ckpt"
    content = {"global_step": 1, "state_dict": {"a": torch.ones(100_000)}}
    WholeCheckpointIO().save_checkpoint(content, path)
    before = path.read_bytes()
    with files_limited_to(200_000), pytest.raises(UserError) as raised:
        WholeCheckpointIO().save_checkpoint({**content, "global_step": 2}, path)
    message = str(raised.value)
    assert f"{path} cannot be written (File too large)" in message and "\n" not in message
    assert "expected about 400,000" in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"state_dict": {"good": torch.ones(2), "bad": torch.tensor([1.0, torch.nan])}},
        {"optimizer_states": [{"state": {0: {"bad": torch.tensor(torch.inf)}}}]},
    ],
    ids=["weights", "moments"],
)
def test_a_state_that_is_not_finite_is_never_written(spoilt, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("what was there")
    with pytest.raises(UserError, match=r"at step 7 got NaN or infinite values in .*bad"):
        WholeCheckpointIO().save_checkpoint({"global_step": 7, "state_dict": {}, **spoilt}, path)
    assert path.read_text() == "what was there"


def test_as_many_periodic_checkpoints_are_kept_as_asked(tmp_path):
    often = "--max_steps 5 --checkpoint_every_n_steps 1 --limit_val_batches 0"
    train_vqgan(tmp_path / "all", often)
    train_vqgan(tmp_path / "two", f"{often} --keep_checkpoints 2")
    steps = {
        name: sorted(read(path)["global_step"] for path in (tmp_path / name).rglob("epoch=*.ckpt"))
        for name in ("all", "two")
    }
    assert steps == {"all": [1, 2, 3, 4, 5], "two": [4, 5]}
    assert last_of(tmp_path / "two").exists()


# --- what `last` takes ------------------------------------------------------------------------


def write(path: Path, step: int, **others: Any) -> Path:
    """A small VQGAN's checkpoint; the later it is written, the older its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**good_content(tiny_vqgan()), "global_step": step, **others}
    torch.save(content, path)
    os.utime(path, (1e9 - step, 1e9 - step))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "lightning_logs/version_3/checkpoints/last.ckpt",
        "lightning_logs/version_0/checkpoints/epoch=0-step=7.ckpt",
        "lightning_logs/version_0/checkpoints/best-epoch=0-step=7-val_recon_loss=1.2.ckpt",
        "checkpoints/last.ckpt",
        "hpc_ckpt_2.ckpt",
    ],
)
def test_last_knows_every_file_by_its_step(name, tmp_path, caplog):
    caplog.set_level("INFO", "pytorch_lightning")
    for step in (5, 6):
        write(tmp_path / f"lightning_logs/version_{step}/checkpoints/last.ckpt", step)
    newest = write(tmp_path / name, 7)
    args = vqgan_args(tmp_path, "--resume_from_checkpoint last")
    assert find_resume_checkpoint(args, "vqgan") == str(newest)
    assert f"--resume_from_checkpoint last takes {newest}, step 7" in caplog.text


def test_last_takes_the_one_written_last_of_two_of_the_same_step(tmp_path):
    older = write(tmp_path / "lightning_logs/version_0/checkpoints/epoch=0-step=5.ckpt", 5)
    newer = write(older.with_name("last.ckpt"), 5)
    os.utime(newer)
    assert newest_checkpoint(tmp_path, "vqgan") == (newer, 5)


def test_last_passes_over_files_that_nothing_can_go_on_from_with_a_line_each(tmp_path, caplog):
    folder = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    good = write(folder / "epoch=0-step=3.ckpt", 3)
    weights = good_content(tiny_vqgan())["state_dict"]
    weights["codebook.embeddings"] = torch.full((32, 8), torch.nan)
    write(folder / "nan.ckpt", 9, state_dict=weights)
    moments = [{"state": {0: {"exp_avg": torch.tensor(torch.inf)}}, "param_groups": []}]
    write(folder / "inf.ckpt", 8, optimizer_states=moments)
    for name in ("cut.ckpt", "epoch=0-step=7.ckpt"):
        (folder / name).write_bytes(good.read_bytes()[:1000])
    transformer = good_content(tiny_transformer(unconditional=True))
    torch.save({**transformer, "global_step": 6}, folder / "other.ckpt")
    assert newest_checkpoint(tmp_path, "vqgan") == (good, 3)
    lines = [record.getMessage() for record in caplog.records if "passes over" in record.message]
    for name in ("nan", "inf", "cut", "epoch=0-step=7", "other"):
        assert sum(f"{name}.ckpt" in line for line in lines) == 1, name
    assert not any("\n" in line for line in lines) and len(lines) == 5


def test_slurms_file_is_not_gone_on_from_unasked(tmp_path, monkeypatch):
    write(tmp_path / "hpc_ckpt_1.ckpt", 4)
    args = vqgan_args(tmp_path, "")
    assert find_resume_checkpoint(args, "vqgan") is None
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    with pytest.raises(UserError, match=r"got nothing, with .*hpc_ckpt_1.ckpt there"):
        find_resume_checkpoint(args, "vqgan")


# --- the learning rate ------------------------------------------------------------------------


def test_the_learning_rate_asked_for_wins_on_resuming_and_a_line_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "pytorch_lightning")
    train_vqgan(tmp_path, "--max_steps 1", lr=1e-3)
    assert "is replaced by" not in caplog.text
    train_vqgan(tmp_path, "--max_steps 2 --resume_from_checkpoint last", lr=2e-3)
    (line,) = [line for line in caplog.messages if "is replaced by" in line]
    assert line.startswith("the checkpoint's learning rate 0.001 is replaced by 0.002")
    for version, rate in ((0, 1e-3), (1, 2e-3)):
        content = read(last_of(tmp_path, version))
        states = content["optimizer_states"]
        assert [state["param_groups"][0]["lr"] for state in states] == [rate, rate]
        assert content["hyper_parameters"]["args"]["lr"] == rate


# --- steps that are not finite ----------------------------------------------------------------


class Spoil(Callback):
    """Make some batches NaN, and note weights and statistics before and after each."""

    def __init__(self, *batches: int) -> None:
        self.batches = batches
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.states.append({k: v.clone() for k, v in module.state_dict().items()})
        if len(self.states) in self.batches:
            batch["video"] = torch.full_like(batch["video"], torch.nan)  # not the data's own


UNSEEN = "--limit_val_batches 0"


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    floats = [name for name, tensor in before.items() if tensor.is_floating_point()]
    return any(not torch.equal(before[name], after[name]) for name in floats)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_is_named_and_leaves_no_trace(accumulate, tmp_path, caplog):
    spoil = Spoil(3)
    command = f"--max_steps 4 --accumulate_grad_batches {accumulate} {UNSEEN}"
    train_vqgan(tmp_path, command, spoil)
    (line,) = [line for line in caplog.messages if "was skipped" in line]
    step = {1: 3, 2: 2}[accumulate]
    assert f"step {step} was skipped, 1 in a row (--max_skipped_steps 10)" in line
    assert "train/recon_loss nan" in line
    first, after = (step - 1) * accumulate, step * accumulate
    assert not changed(spoil.states[first], spoil.states[after])
    assert changed(spoil.states[after], read(last_of(tmp_path))["state_dict"])
    last = read(last_of(tmp_path))
    assert last["global_step"] == 4
    assert [int(state["state"][0]["step"]) for state in last["optimizer_states"]] == [3, 3]


def test_training_ends_after_too_many_in_a_row_with_the_state_before_them(tmp_path):
    spoil = Spoil(2, 4, 5, 6)
    with pytest.raises(UserError) as raised:
        train_vqgan(tmp_path, f"--max_steps 9 --max_skipped_steps 2 {UNSEEN}", spoil)
    message = str(raised.value)
    assert "training ends at step 6: got " in message and "train/recon_loss nan" in message
    assert f"3 steps in a row; expected finite values; {last_of(tmp_path)} is sound" in message
    assert not changed(spoil.states[3], read(last_of(tmp_path))["state_dict"])


def test_an_older_last_checkpoint_is_not_replaced_while_steps_are_skipped(tmp_path):
    often = "--save_every_minutes 1e-9 --max_skipped_steps 1"
    with pytest.raises(UserError, match="training ends at step 5"):
        train_vqgan(tmp_path, f"--max_steps 9 {often} {UNSEEN}", Spoil(4, 5))
    assert read(last_of(tmp_path))["global_step"] == 3


class Steep(Slope):
    """Its gradient is not finite at one batch, though its loss is."""

    latent_shape = (1, 1, 1)

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        bad = batch_index == 1
        return torch.sqrt(self.weight * 0) if bad else self.weight * 1.0


@pytest.mark.parametrize("clip", ["", "--gradient_clip_val 1"])
def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is(clip, tmp_path, caplog):
    quiet = f"--progress_bar_refresh_rate 0 --default_root_dir {tmp_path} {UNSEEN}"
    args = trainer_args(f"--max_epochs 1 {clip} {quiet}")
    model, trainer = Steep(), build_trainer(args, TRANSFORMER_STAGE)
    fit(trainer, model, NoiseData(n_batches=4), args, TRANSFORMER_STAGE)
    assert model.weight.item() == pytest.approx(-3.0, abs=1e-5)  # of four steps
    assert "step 2 was skipped" in caplog.text and "a gradient norm that is not" in caplog.text


def test_steps_that_float16s_scaler_skips_are_not_counted(tmp_path, caplog):
    quiet = f"--progress_bar_refresh_rate 0 --default_root_dir {tmp_path} {UNSEEN}"
    args = trainer_args(f"--max_epochs 1 --max_skipped_steps 0 {quiet}")
    model, trainer = Steep(), build_trainer(args, TRANSFORMER_STAGE)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fit(trainer, model, NoiseData(n_batches=4), args, TRANSFORMER_STAGE)
    assert model.weight.isfinite() and "was skipped" not in caplog.text


# --- several processes ------------------------------------------------------------------------

TWO = """
import os, signal, sys
import train_vqgan
from pytorch_lightning.callbacks import Callback
from tats.training import trainer as training

what, rank = os.environ["DISTURB"].split()

class Disturb(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == 1 and trainer.global_rank == int(rank):
            if what == "error":
                raise RuntimeError(f"rank {rank} has had enough")
            os.kill(os.getpid(), signal.SIGTERM)

made = training._callbacks
training._callbacks = lambda *given: [*made(*given), Disturb()]
train_vqgan.main(sys.argv[1:])
"""


def train_in_two(videos: Path, folder: Path, what: str, rank: int) -> subprocess.CompletedProcess:
    """Train in two processes, one of which is disturbed at the second step."""
    script = folder / "two.py"
    script.write_text(TWO)
    places = f"--data_path {videos} --default_root_dir {folder} --num_workers 0"
    devices = "--accelerator cpu --devices 2 --max_steps 50"
    return subprocess.run(
        [sys.executable, str(script), *f"{places} {SMALL} {devices}".split()],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "DISTURB": f"{what} {rank}",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(rank, videos, tmp_path):
    run = train_in_two(videos, tmp_path, "signal", rank)
    assert run.returncode == 128 + signal.SIGTERM, run.stderr
    lines = [line for line in run.stderr.splitlines() if "stopped by" in line]
    assert len(lines) == 1 and "stopped by SIGTERM after step 2" in lines[0]
    assert read(last_of(tmp_path))["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_of_two_processes_ends_both_with_its_message(rank, videos, tmp_path):
    started = time.monotonic()
    run = train_in_two(videos, tmp_path, "error", rank)
    assert run.returncode != 0
    assert f"rank {rank} has had enough" in run.stderr
    assert time.monotonic() - started < 60
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False)
    assert not left.stdout
