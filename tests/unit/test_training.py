"""Flags become a Trainer, and what happens beside training: checkpoints, pictures, resuming."""

from __future__ import annotations

import copy
import csv
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tiny import VQGAN_FLAGS
from torch.utils.data import DataLoader, Dataset

from tats.errors import UserError
from tats.flags import add_trainer_flags, new_parser, with_defaults
from tats.models.vqgan import VQGAN
from tats.training.callbacks import (
    KeptCheckpoints,
    ReconstructionPictures,
    Throughput,
    _due,
    compare_with_reconstruction,
)
from tats.training.newest import find_resume_checkpoint
from tats.training.trainer import (
    TRANSFORMER_STAGE,
    VQGAN_STAGE,
    Devices,
    build_trainer,
    choose_devices,
    fit,
    transformer_learning_rate,
    vqgan_learning_rate,
)

ACCUMULATED = 2


def trainer_args(command: str = "", **others: Any) -> Namespace:
    parser = new_parser("a test")
    add_trainer_flags(parser)
    parsed = parser.parse_args(command.split())
    return with_defaults({**vars(parsed), **others})


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the machine has eight GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the machine has no GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


# --- learning rates ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "batch_size", "lr", "expected"),
    [
        ("--gpus 8 --accumulate_grad_batches 6", 2, 3e-5, 9e-5),
        ("--gpus 1", 4, 3e-4, 3.75e-5),
        ("--gpus 0", 4, 3e-4, 3.75e-5),
        ("", 4, 3e-4, 3.75e-5),
        ("--num_processes 2", 4, 3e-4, 3.75e-5),
        ("--gpus 2,5,6,7 --num_nodes 3 --accumulate_grad_batches 2", 3, 1e-4, 7.5e-5),
    ],
)
def test_vqgan_rate_is_for_eight_gpus_with_four_clips(
    eight_gpus, command, batch_size, lr, expected
):
    args = trainer_args(command, batch_size=batch_size, lr=lr)
    assert vqgan_learning_rate(args) == pytest.approx(expected, rel=1e-12)


def test_transformer_rate_is_per_clip_of_the_whole_batch(eight_gpus):
    args = trainer_args("--gpus 8", batch_size=3, base_lr=4.5e-6)
    assert transformer_learning_rate(args) == pytest.approx(1.08e-4, rel=1e-12)
    args = trainer_args("--accumulate_grad_batches 2", batch_size=16, base_lr=4.5e-6)
    assert transformer_learning_rate(args) == pytest.approx(1.44e-4, rel=1e-12)


def test_rates_equal_the_published_rule(eight_gpus, goldens: Path):
    rules = json.loads((goldens / "meta.json").read_text())["lr_rule"]
    for case in rules["vqgan"] + rules["transformer"]:
        args = trainer_args(f"--gpus {case['ngpu']}", batch_size=case["bs"])
        args.accumulate_grad_batches = case["accumulate"]
        args.lr = args.base_lr = case["base_lr"]
        rate = vqgan_learning_rate if case in rules["vqgan"] else transformer_learning_rate
        assert rate(args) == pytest.approx(case["lr"], rel=1e-12)


# --- devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "accelerator", "devices"),
    [
        ("", "cpu", 1),
        ("--gpus 0", "cpu", 1),
        ("--num_processes 2", "cpu", 2),
        ("--accelerator cpu --devices 2", "cpu", 2),
        ("--gpus 8", "gpu", 8),
        ("--gpus -1", "gpu", 8),
        ("--gpus 0,2", "gpu", [0, 2]),
        ("--gpus 3,", "gpu", [3]),
        ("--gpus [1,7]", "gpu", [1, 7]),
        ("--accelerator gpu --devices 4", "gpu", 4),
        ("--accelerator gpu --devices auto", "gpu", 8),
        ("--accelerator auto --gpus 2", "gpu", 2),
        ("--accelerator ddp --gpus 2", "gpu", 2),
    ],
)
def test_devices_are_read_as_lightning_15_read_them(eight_gpus, command, accelerator, devices):
    assert choose_devices(trainer_args(command)) == Devices(accelerator, devices)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("--gpus 8", "--gpus got 8; expected at most 0"),
        ("--gpus 0,2", "--gpus got 0,2; expected at most 0"),
        ("--gpus -1", "--gpus got 1; expected at most 0"),
        ("--accelerator gpu", "--devices got 1; expected at most 0"),
        ("--gpus many", "--gpus got 'many'"),
        ("--gpus -2", "--gpus got -2"),
        ("--accelerator tpu", "--accelerator got 'tpu'"),
        ("--accelerator cpu --gpus 1", "--gpus got 1 with --accelerator cpu"),
        ("--num_processes 0", "--devices got None"),
    ],
)
def test_devices_that_are_not_there_are_refused(no_gpu, command, complaint):
    with pytest.raises(UserError, match=complaint):
        choose_devices(trainer_args(command))


# --- the Trainer ------------------------------------------------------------------------------


def callbacks_of(trainer: Any, kind: type) -> list[Any]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


def test_the_vqgan_accumulates_and_clips_by_itself_and_the_transformer_leaves_it_to_the_trainer():
    args = trainer_args("--gradient_clip_val 1.5 --accumulate_grad_batches 3")
    by_hand, by_trainer = build_trainer(args, VQGAN_STAGE), build_trainer(args, TRANSFORMER_STAGE)
    assert (by_hand.accumulate_grad_batches, by_hand.gradient_clip_val) == (1, None)
    assert (by_trainer.accumulate_grad_batches, by_trainer.gradient_clip_val) == (3, 1.5)


def test_flags_reach_the_trainer(tmp_path):
    command = (
        "--max_steps 7 --val_check_interval 0.5 --limit_train_batches 5 --limit_val_batches 0.5"
        " --check_val_every_n_epoch 2 --log_every_n_steps 3 --num_sanity_val_steps 1"
        f" --default_root_dir {tmp_path} --min_steps 4 --precision bf16 --overfit_batches 2"
    )
    trainer = build_trainer(trainer_args(command), TRANSFORMER_STAGE)
    assert (trainer.max_steps, trainer.min_steps) == (7, 4)
    assert (trainer.val_check_interval, trainer.check_val_every_n_epoch) == (0.5, 2)
    assert (trainer.limit_train_batches, trainer.limit_val_batches) == (2, 2), "overfitting wins"
    assert (trainer.log_every_n_steps, trainer.num_sanity_val_steps) == (3, 1)
    assert (trainer.default_root_dir, trainer.precision) == (str(tmp_path), "bf16-mixed")
    assert list(tmp_path.iterdir()) == []


def test_validation_can_come_every_so_many_batches_across_epochs(tmp_path):
    quiet = f"--default_root_dir {tmp_path} --progress_bar_refresh_rate 0"
    command = f"--check_val_every_n_epoch none --val_check_interval 4 --max_epochs 2 {quiet}"
    parser = new_parser("a test")
    add_trainer_flags(parser)
    args = parser.parse_args(f"{command} --num_sanity_val_steps 0".split())
    args.data_path = None
    validated_after: list[int] = []

    class Checked(Slope):
        def validation_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> None:
            self.log("val/loss", self.weight)
            if batch_index == 0:
                validated_after.append(self.trainer.global_step)

    fit(build_trainer(args, TRANSFORMER_STAGE), Checked(), NoiseData(5), args, TRANSFORMER_STAGE)
    assert validated_after == [4, 8]  # of two epochs of five


def test_without_limits_training_takes_a_thousand_epochs_as_before():
    assert build_trainer(trainer_args(), VQGAN_STAGE).max_epochs == 1000


@pytest.mark.parametrize(("rate", "shown"), [("0", 0), ("500", 500), (None, 1)])
def test_the_progress_bar_is_redrawn_as_asked(rate, shown):
    command = "" if rate is None else f"--progress_bar_refresh_rate {rate}"
    bars = callbacks_of(build_trainer(trainer_args(command), VQGAN_STAGE), TQDMProgressBar)
    assert [bar.refresh_rate for bar in bars] == ([shown] if shown else [])


def test_several_processes_use_ddp_and_the_vqgan_tells_it_of_idle_parameters():
    args = trainer_args("--num_processes 2")
    vqgan_strategy = build_trainer(args, VQGAN_STAGE).strategy
    assert vqgan_strategy._ddp_kwargs == {"find_unused_parameters": True}
    assert build_trainer(args, TRANSFORMER_STAGE).strategy._ddp_kwargs == {}
    for name in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"):
        named = trainer_args(f"--accelerator cpu --devices 2 --strategy {name}")
        strategy = build_trainer(named, VQGAN_STAGE).strategy
        assert strategy._ddp_kwargs == {"find_unused_parameters": True}, name


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("--strategy dp", "--strategy got dp"),
        ("--accelerator ddp2", "--strategy got ddp2"),
        ("--precision 16", "--precision got 16 on the CPU"),
        ("--precision 16-true", "--precision got 16-true on the CPU"),
        ("--precision nonsense", "--precision got 'nonsense'; expected 32, bf16, 16, 64"),
        ("--limit_train_batches 1.5", "does not take one of its flags.*limit_train_batches"),
        ("--profiler nosuch", "does not take one of its flags.*profiler"),
    ],
)
def test_settings_the_trainer_cannot_take_end_in_one_line(command, complaint):
    with pytest.raises(UserError, match=complaint) as raised:
        build_trainer(trainer_args(command), VQGAN_STAGE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("stage", "periods"), [(VQGAN_STAGE, (3000, 10000)), (TRANSFORMER_STAGE, (10000, 50000))]
)
def test_checkpoints_are_kept_as_often_as_published_or_as_asked(stage, periods):
    (kept,) = callbacks_of(build_trainer(trainer_args(), stage), KeptCheckpoints)
    assert kept.periods == periods
    args = trainer_args("--checkpoint_every_n_steps 5")
    (kept,) = callbacks_of(build_trainer(args, stage), KeptCheckpoints)
    assert kept.periods == (5,)
    (best,) = callbacks_of(build_trainer(args, stage), ModelCheckpoint)
    assert (best.monitor, best.save_top_k, best.mode) == (stage.monitor, 3, "min")


def test_only_the_vqgan_shows_reconstructions():
    vqgan, transformer = (
        build_trainer(trainer_args(), stage) for stage in (VQGAN_STAGE, TRANSFORMER_STAGE)
    )
    assert callbacks_of(vqgan, ReconstructionPictures)
    assert not callbacks_of(transformer, ReconstructionPictures)
    assert callbacks_of(vqgan, Throughput) and callbacks_of(transformer, Throughput)


# --- training ---------------------------------------------------------------------------------


class Noise(Dataset):
    """Random clips, the same each time."""

    def __init__(self, n_clips: int) -> None:
        shape = (n_clips, 3, 8, 16, 16)
        self.clips = torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 0.5

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"video": self.clips[index]}


class NoiseData(pl.LightningDataModule):
    """Batches of two random clips."""

    def __init__(self, n_batches: int = 5) -> None:
        super().__init__()
        self.n_clips = 2 * n_batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Noise(self.n_clips), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Noise(4), batch_size=2)


def vqgan_args(folder: Path, command: str, **others: Any) -> Namespace:
    quiet = "--progress_bar_refresh_rate 0 --enable_model_summary false --log_every_n_steps 1"
    flags = {**VQGAN_FLAGS, "sequence_length": 8, **others}
    return trainer_args(f"--default_root_dir {folder} {quiet} {command}", **flags)


def train_vqgan(folder: Path, command: str, *extra: Callback, **others: Any) -> VQGAN:
    args = vqgan_args(folder, command, **others)
    torch.manual_seed(0)
    model, trainer = VQGAN(args), build_trainer(args, VQGAN_STAGE)
    trainer.callbacks.extend(extra)
    fit(trainer, model, NoiseData(), args, VQGAN_STAGE)
    return model


class Watch(Callback):
    """Note the state training starts with."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        self.weights = {k: v.clone() for k, v in pl_module.state_dict().items()}
        self.states = copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers])
        states = [state["state"] for state in self.states]
        self.optimizer_steps = [int(state[0]["step"]) for state in states]
        self.moments = [state[0]["exp_avg"].clone() for state in states]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps that keeps every second one; one step is two batches of five."""
    folder = tmp_path_factory.mktemp("run")
    command = f"--max_steps 5 --checkpoint_every_n_steps 2 --accumulate_grad_batches {ACCUMULATED}"
    train_vqgan(folder, command)
    return folder


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_a_run_keeps_checkpoints_by_period_the_best_three_and_the_last(first_run):
    folder = first_run / "lightning_logs" / "version_0" / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    kept = {"epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt", "last.ckpt"}
    assert kept <= names
    assert all(name.startswith("best-epoch=") for name in names - kept)
    assert 1 <= len(names - kept) <= 3
    assert read(folder / "epoch=1-step=4.ckpt")["global_step"] == 4


def test_the_last_checkpoint_holds_plain_settings_and_counts_a_step_once(first_run):
    last = read(first_run / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 5
    assert type(last["hyper_parameters"]["args"]) is dict
    assert [int(state["state"][0]["step"]) for state in last["optimizer_states"]] == [5, 5]
    assert last["state_dict"]["codebook.N"].sum() > 0


def test_pictures_and_videos_come_at_batches_one_two_four(first_run):
    folder = first_run / "lightning_logs" / "version_0"
    for kind, suffix in (("images", "png"), ("videos", "mp4")):
        shown = {path.name.rpartition("batch=")[2] for path in (folder / kind / "train").iterdir()}
        assert shown == {f"{n}.{suffix}" for n in (1, 2, 4, 8)}
        assert {path.suffix for path in (folder / kind / "val").iterdir()} == {f".{suffix}"}


def test_resuming_last_restores_weights_codebook_both_optimisers_and_the_step(first_run, tmp_path):
    watch = Watch()
    command = "--max_steps 7 --resume_from_checkpoint last"
    train_vqgan(first_run, command, watch)
    saved = read(first_run / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
    assert (watch.step, watch.optimizer_steps) == (5, [5, 5])
    assert watch.weights.keys() == saved["state_dict"].keys()
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(watch.weights[name], tensor), name
    for moment, state in zip(watch.moments, saved["optimizer_states"], strict=True):
        assert torch.equal(moment, state["state"][0]["exp_avg"])
    newest = first_run / "lightning_logs" / "version_1" / "checkpoints" / "last.ckpt"
    assert read(newest)["global_step"] == 7


@pytest.mark.parametrize("precision", ["64", "bf16-true"])
def test_resuming_restores_every_bit_in_every_number_format(tmp_path, precision):
    watch = Watch()
    train_vqgan(tmp_path, f"--max_steps 2 --precision {precision}")
    command = f"--max_steps 3 --precision {precision} --resume_from_checkpoint last"
    train_vqgan(tmp_path, command, watch)
    saved = read(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
    for name, tensor in saved["state_dict"].items():
        assert watch.weights[name].dtype == tensor.dtype, name
        assert torch.equal(watch.weights[name], tensor), name
    kept_in = torch.float64 if precision == "64" else torch.float32
    for got, expected in zip(watch.states, saved["optimizer_states"], strict=True):
        assert got["state"][0].keys() == expected["state"][0].keys()
        for name, value in expected["state"][0].items():
            assert torch.equal(got["state"][0][name], value), name
            assert name == "step" or value.dtype == kept_in
    assert ("float32_value" in saved["optimizer_states"][0]["state"][0]) == (precision != "64")


def test_resuming_passes_over_a_checkpoint_that_was_cut_off(first_run, caplog):
    folder = first_run / "lightning_logs" / "version_9" / "checkpoints"
    folder.mkdir(parents=True)
    whole = (first_run / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[:1000])
    args = vqgan_args(first_run, "--resume_from_checkpoint last")
    found = find_resume_checkpoint(args, "vqgan")
    assert found is not None and "version_9" not in found
    assert "cut.ckpt" in caplog.text
    (folder / "cut.ckpt").unlink()


def test_resuming_last_starts_afresh_and_says_so_where_nothing_was_written(tmp_path, caplog):
    args = vqgan_args(tmp_path, "--resume_from_checkpoint last")
    assert find_resume_checkpoint(args, "vqgan") is None
    assert "starting afresh" in caplog.text


def test_resuming_from_the_other_stage_is_refused(first_run):
    last = first_run / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    args = vqgan_args(first_run, f"--resume_from_checkpoint {last}")
    with pytest.raises(UserError, match=r"--resume_from_checkpoint.*transformer"):
        find_resume_checkpoint(args, "transformer")


class Slope(pl.LightningModule):
    """One weight whose loss always has slope one."""

    latent_shape = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_a_shorter_last_window_is_divided_by_the_whole_window(tmp_path):
    command = f"--max_epochs 1 --accumulate_grad_batches 2 --default_root_dir {tmp_path}"
    args = trainer_args(f"{command} --progress_bar_refresh_rate 0 --limit_val_batches 0")
    model, trainer = Slope(), build_trainer(args, TRANSFORMER_STAGE)
    fit(trainer, model, NoiseData(n_batches=3), args, TRANSFORMER_STAGE)
    assert trainer.global_step == 2
    assert model.weight.item() == pytest.approx(-(1.0 + 0.5))


def test_throughput_counts_clips_and_tokens(tmp_path):
    args = trainer_args(f"--max_epochs 1 --default_root_dir {tmp_path} --limit_val_batches 0")
    trainer = build_trainer(args, TRANSFORMER_STAGE)
    Slope.latent_shape = (2, 3, 4)
    fit(trainer, Slope(), NoiseData(n_batches=3), args, TRANSFORMER_STAGE)
    figures = trainer.logged_metrics | trainer.callback_metrics
    clips = float(figures["throughput/clips_per_second"])
    assert clips > 0
    assert float(figures["throughput/tokens_per_second"]) == pytest.approx(24 * clips, rel=1e-5)


def test_nothing_is_written_where_the_output_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    args = vqgan_args(tmp_path / "file" / "below", "--max_steps 1")
    with pytest.raises(UserError, match="--default_root_dir got"):
        fit(build_trainer(args, VQGAN_STAGE), VQGAN(args), NoiseData(), args, VQGAN_STAGE)


# --- curves -----------------------------------------------------------------------------------


def rows_of(folder: Path, column: str) -> list[int]:
    with open(folder / "lightning_logs" / "version_0" / "metrics.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[column]]


def test_all_curves_are_drawn_over_steps_done_and_written_every_so_many_steps(tmp_path):
    accumulated = "--max_epochs 2 --limit_train_batches 4 --accumulate_grad_batches 2 --logger csv"
    train_vqgan(tmp_path / "1", accumulated)
    train_vqgan(tmp_path / "2", f"{accumulated} --log_every_n_steps 2")
    assert rows_of(tmp_path / "1", "train/recon_loss") == [1, 2, 3, 4]
    assert rows_of(tmp_path / "2", "train/recon_loss") == [2, 4]
    assert rows_of(tmp_path / "1", "train/discloss") == [1, 2, 3, 4]
    assert rows_of(tmp_path / "1", "val/recon_loss") == [2, 4]


def test_the_vqgans_losses_are_in_the_progress_bar(tmp_path):
    shown: set[str] = set()

    class Look(Callback):
        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            shown.update(trainer.progress_bar_metrics)

    train_vqgan(tmp_path, "--max_steps 1", Look())
    losses = ("recon_loss", "perceptual_loss", "commitment_loss", "aeloss", "discloss")
    assert shown == {f"train/{name}" for name in losses}


@pytest.mark.parametrize(
    ("command", "kind"),
    [("", TensorBoardLogger), ("--logger", TensorBoardLogger), ("--logger csv", CSVLogger)],
)
def test_the_logger_is_the_one_asked_for(command, kind):
    assert isinstance(build_trainer(trainer_args(command), VQGAN_STAGE).logger, kind)


def test_no_logger_is_made_where_none_is_wanted_or_installed(monkeypatch):
    assert build_trainer(trainer_args("--logger false"), VQGAN_STAGE).logger is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--logger got wandb, whose package is not installed"):
        build_trainer(trainer_args("--logger wandb"), VQGAN_STAGE)


# --- pictures ---------------------------------------------------------------------------------


def test_pictures_are_due_at_powers_of_two_and_then_regularly():
    assert [n for n in range(1, 3001) if _due(n, 750)] == [
        *(2**k for k in range(10)),
        *(750, 1500, 2250, 3000),
    ]


@pytest.mark.parametrize("mode", [True, False])
def test_looking_at_reconstructions_changes_nothing(mode):
    model = VQGAN({**VQGAN_FLAGS, "sequence_length": 8}).train(mode)
    model.codebook.N.fill_(1.0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    shown = compare_with_reconstruction(model, Noise(4)[slice(0, 4)], n_clips=3)
    assert (shown.shape, shown.dtype) == ((6, 8, 16, 16, 3), torch.uint8)
    assert model.training is mode
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_spectrograms_and_label_maps_can_be_looked_at():
    model = VQGAN({**VQGAN_FLAGS, "sequence_length": 8, "image_channels": 5}).eval()
    model.codebook.N.fill_(1.0)
    maps = torch.nn.functional.one_hot(torch.randint(5, (1, 8, 16, 16)), 5).movedim(-1, 1) - 0.5
    shown = compare_with_reconstruction(model, {"video": maps}, n_clips=1)
    grey = (maps[0].argmax(dim=0) * 255 // 4).to(torch.uint8)
    assert torch.equal(shown[0], torch.stack([grey] * 3, dim=-1))
