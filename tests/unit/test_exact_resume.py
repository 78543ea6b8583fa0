"""A run that was stopped and resumed equals the one left alone, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from load_script import load_script
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from small_data import data_args
from tiny import save_checkpoint, tiny_vqgan

from tats.data import VideoData
from tats.errors import UserError
from tats.training import trainer as training

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on small runs

N_CLIPS = 9  # five batches of 2, the last of one clip; windows of 2, 2 and 1 batches
N_BATCHES = 13  # in the middle of a window of the third epoch
BATCHES_PER_EPOCH = 5

COMMON = (
    "--resolution 16 --sequence_length 4 --batch_size 2 --accumulate_grad_batches 2 --max_epochs 9"
    " --progress_bar_refresh_rate 0 --enable_model_summary false --num_sanity_val_steps 1"
    " --log_every_n_steps 1 --logger false --seed 3"
)
MODELS = {
    "vqgan": "--embedding_dim 8 --n_codes 16 --n_hiddens 4 --downsample 4 4 4 --norm_type batch"
    " --disc_channels 4 --disc_layers 2 --discriminator_iter_start 2 --image_gan_weight 1"
    " --video_gan_weight 1 --perceptual_weight 0 --lr 0.01",
    "transformer": "--unconditional --block_size 16 --n_layer 1 --n_head 2 --n_embd 16"
    " --base_lr 0.01",
}


class Run(Callback):
    """Notes the clips seen, saves after every batch if asked, and stops after some.

    Args:
        stop_at: batches of all epochs after which training stops.
        folder: where to save after every batch and every validation.
    """

    def __init__(self, stop_at: int = N_BATCHES, folder: Path | None = None) -> None:
        self.stop_at = stop_at
        self.folder = folder
        self.seen: list[list[float]] = []
        self.content: dict[str, Any] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(clips_of(batch))
        n_batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if self.folder:
            trainer.save_checkpoint(self.folder / f"batch{n_batches}.ckpt", weights_only=False)
        if n_batches == self.stop_at:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        n_batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if self.folder and not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"held-out{n_batches}.ckpt", weights_only=False)


def clips_of(batch: dict[str, Any]) -> list[float]:
    return [round(float(clip.double().sum()), 6) for clip in batch["video"]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clips.h5"
    numbers = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, n_clips in (("train", N_CLIPS), ("test", 3)):
            n_frames = 6  # of which a clip has 4: where it starts is drawn
            frames = numbers.integers(256, size=(n_clips * n_frames, 16, 16, 3), dtype=np.uint8)
            file[f"{split}_data"] = frames
            file[f"{split}_idx"] = n_frames * np.arange(n_clips + 1)
    return path


class Stage:
    """One of the two models, its run left alone, and that run's checkpoints."""

    def __init__(self, name: str, clips: Path, root: Path) -> None:
        self.script: ModuleType = load_script(f"train_{name}.py")
        self.root = root
        self.flags = f"--data_path {clips} {COMMON} {MODELS[name]}"
        if name == "transformer":
            vqgan = tiny_vqgan(sequence_length=4, n_codes=16, downsample=(4, 4, 4))
            self.flags += f" --vqvae {save_checkpoint(vqgan, root / 'vqgan.ckpt')}"
        self.whole = self.train("whole", Run(folder=root))

    def train(self, name: str, run: Run, flags: str = "") -> Run:
        callbacks = training._callbacks
        training._callbacks = lambda *given: [*callbacks(*given), run]
        torch.manual_seed(len(name))  # of no influence
        places = f"--default_root_dir {self.root / name} "
        try:
            self.script.main(f"{places} {self.flags} --num_workers 0 {flags}".split())
        finally:
            training._callbacks = callbacks
        (last,) = (self.root / name).rglob("last.ckpt")
        run.content = torch.load(last, weights_only=True)
        return run


@pytest.fixture(scope="module", params=MODELS)
def stage(request: Any, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    return Stage(request.param, clips, tmp_path_factory.mktemp(request.param))


def assert_equal(found: Any, wanted: Any, where: str = "") -> None:
    """Compare nested states bit for bit."""
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted), where
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key, value in wanted.items():
            assert_equal(found[key], value, f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for i, value in enumerate(wanted):
            assert_equal(found[i], value, f"{where}/{i}")
    else:
        assert found == wanted, where


def assert_goes_on(resumed: Run, whole: Run, n_before: int) -> None:
    assert resumed.seen == whole.seen[n_before:]
    for key in ("state_dict", "optimizer_states", "global_step", "VideoData"):
        assert_equal(resumed.content[key], whole.content[key], key)
    assert (
        resumed.content.get("accumulated_gradients", {}).keys()
        == whole.content.get("accumulated_gradients", {}).keys()
    )


def test_a_run_left_alone_sees_every_clip_once_an_epoch(stage: Stage) -> None:
    seen = stage.whole.seen
    assert [len(batch) for batch in seen[:5]] == [2, 2, 2, 2, 1]
    assert len(seen) == N_BATCHES
    assert len({clip for batch in seen[:5] for clip in batch}) == N_CLIPS
    assert seen[:5] != seen[5:10]
    place = stage.whole.content["VideoData"]
    assert place == {"clips_drawn": 2 * N_CLIPS + 6, "clips_per_epoch": N_CLIPS}


@pytest.mark.parametrize("n_before", range(1, N_BATCHES))
def test_a_run_goes_on_from_the_checkpoint_of_any_batch(stage: Stage, n_before: int) -> None:
    file = stage.root / f"batch{n_before}.ckpt"
    resumed = stage.train(f"from{n_before}", Run(), f"--resume_from_checkpoint {file}")
    assert_goes_on(resumed, stage.whole, n_before)


@pytest.mark.parametrize("n_before", [2, 3, 5, 8, 10])
def test_a_run_that_ended_in_mid_epoch_goes_on_there_with_worker_processes(
    stage: Stage, n_before: int
) -> None:
    name = f"ended{n_before}"
    stopped = stage.train(name, Run(stop_at=n_before), "--num_workers 2")
    assert len(stopped.seen) == n_before
    (file,) = (stage.root / name).rglob("last.ckpt")
    flags = f"--num_workers 2 --resume_from_checkpoint {file}"
    resumed = stage.train(f"{name}-on", Run(), flags)
    assert_goes_on(resumed, stage.whole, n_before)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5])
def test_a_run_that_reached_its_steps_goes_on_in_the_same_epoch(stage: Stage, n_steps: int) -> None:
    name = f"steps{n_steps}"
    stopped = stage.train(name, Run(), f"--max_steps {n_steps}")
    (file,) = (stage.root / name).rglob("last.ckpt")
    resumed = stage.train(f"{name}-on", Run(), f"--max_steps 99 --resume_from_checkpoint {file}")
    assert_goes_on(resumed, stage.whole, len(stopped.seen))


@pytest.mark.parametrize("n_before", [5, 10])
def test_a_run_goes_on_from_the_checkpoint_of_a_validation(stage: Stage, n_before: int) -> None:
    file = stage.root / f"held-out{n_before}.ckpt"
    resumed = stage.train(f"held-out{n_before}", Run(), f"--resume_from_checkpoint {file}")
    assert_goes_on(resumed, stage.whole, n_before)


def test_validation_changes_nothing_in_training(stage: Stage) -> None:
    flags = "--val_check_interval 1"  # also between the batches of a window
    assert_goes_on(stage.train("validated", Run(), flags), stage.whole, 0)
    assert_goes_on(stage.train("blind", Run(), "--limit_val_batches 0"), stage.whole, 0)


# --- any Trainer and any sizes, with a model that draws ------------------------------------------


class Drawing(LightningModule):
    """Notes which clips it sees, and what all generators draw beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[float]] = []
        self.draws: list[tuple[float, float, float]] = []

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        self.seen.append(clips_of(batch))
        self.draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        return self.weight * 0

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        torch.rand(7), np.random.rand(7), random.random()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def draw(
    clips: Path,
    folder: Path,
    n_steps: int,
    checkpoint: Path | None = None,
    *,
    settings: dict[str, Any] | None = None,
    **flags: Any,
) -> Drawing:
    """Train with a plain Trainer, and leave ``c{n_steps}.ckpt``."""
    model = Drawing()
    random.seed(), np.random.seed(None), torch.seed()  # of no influence
    trainer = Trainer(
        max_steps=n_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        **(settings or {}),
    )
    data = VideoData(data_args(clips, seed=4, **flags))
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"c{n_steps}.ckpt")
    return model


@pytest.mark.parametrize("n_before", [1, 5, 7])
def test_a_plain_trainer_goes_on_with_the_same_clips_and_draws(
    n_before: int, clips: Path, tmp_path: Path
) -> None:
    whole = draw(clips, tmp_path, 12)
    assert len(set(whole.draws)) == 12
    draw(clips, tmp_path, n_before)
    resumed = draw(clips, tmp_path, 12, tmp_path / f"c{n_before}.ckpt")
    assert resumed.seen == whole.seen[n_before:]
    assert resumed.draws == whole.draws[n_before:]


def flat(seen: list[list[float]]) -> list[float]:
    return [clip for batch in seen for clip in batch]


@pytest.fixture(scope="module")
def order(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The clips of six epochs, one after the other."""
    return flat(draw(clips, tmp_path_factory.mktemp("order"), 6 * N_CLIPS, batch_size=1).seen)


@pytest.mark.parametrize(
    ("first", "second", "n_before"), [(2, 4, 1), (2, 1, 2), (4, 3, 2), (2, 4, 7), (3, 2, 3)]
)
def test_another_batch_size_goes_on_with_the_next_clip(
    first: int, second: int, n_before: int, order: list[float], clips: Path, tmp_path: Path
) -> None:
    seen = draw(clips, tmp_path, n_before, batch_size=first).seen
    n_steps = n_before + 6
    seen += draw(clips, tmp_path, n_steps, tmp_path / f"c{n_before}.ckpt", batch_size=second).seen
    checkpoint = tmp_path / f"c{n_steps}.ckpt"
    seen += draw(clips, tmp_path, n_steps + 3, checkpoint, batch_size=first).seen
    assert len(seen) == n_steps + 3
    assert flat(seen) == order[: len(flat(seen))]


def test_epochs_of_some_batches_go_on_too(clips: Path, tmp_path: Path) -> None:
    settings = {"limit_train_batches": 3}
    whole = draw(clips, tmp_path, 8, settings=settings)
    for n_before in (1, 3, 4, 6):
        draw(clips, tmp_path, n_before, settings=settings)
        checkpoint = tmp_path / f"c{n_before}.ckpt"
        resumed = draw(clips, tmp_path, 8, checkpoint, settings=settings)
        assert resumed.seen == whole.seen[n_before:]


def test_a_second_training_with_the_same_data_begins_anew(clips: Path, tmp_path: Path) -> None:
    whole = draw(clips, tmp_path, 7)
    data = VideoData(data_args(clips, seed=4))
    data.load_state_dict({"clips_drawn": 5, "clips_per_epoch": N_CLIPS})
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, limit_val_batches=0,
    )  # fmt: skip
    model = Drawing()
    trainer.fit(model, datamodule=data)
    assert model.seen == whole.seen[:3]


def test_a_loader_alone_goes_on_and_then_draws_the_next_epoch(
    clips: Path, order: list[float]
) -> None:
    for n_workers in (0, 2):
        data = VideoData(data_args(clips, seed=4, num_workers=n_workers))
        data.load_state_dict({"clips_drawn": 4, "clips_per_epoch": N_CLIPS})
        assert data.state_dict() == {"clips_drawn": 4, "clips_per_epoch": N_CLIPS}
        loader = data.train_dataloader()
        assert flat([clips_of(batch) for batch in loader]) == order[4:N_CLIPS]
        assert flat([clips_of(batch) for batch in loader]) == order[N_CLIPS : 2 * N_CLIPS]


def test_other_data_start_the_epoch_again(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = VideoData(data_args(clips, seed=4))
    data.load_state_dict({"clips_drawn": 25, "clips_per_epoch": 20})
    first = clips_of(next(iter(data.train_dataloader())))
    assert "an epoch had 20 training clips and now has 9: epoch 1 starts again" in caplog.text
    data.load_state_dict({"clips_drawn": N_CLIPS, "clips_per_epoch": N_CLIPS})
    assert clips_of(next(iter(data.train_dataloader()))) == first


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"clips_drawn": -1, "clips_per_epoch": 9},
        {"clips_drawn": 1, "clips_per_epoch": 0},
        {"clips_drawn": "1", "clips_per_epoch": 9},
    ],
)
def test_a_place_that_is_none_is_one_line(stored: dict[str, Any], clips: Path) -> None:
    with pytest.raises(UserError, match=r"--resume_from_checkpoint: .* its place") as caught:
        VideoData(data_args(clips)).load_state_dict(stored)
    assert "\n" not in str(caught.value)
