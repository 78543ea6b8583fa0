"""Training goes on from published and slim checkpoints, or says in one line why it cannot."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hostile_files import good_content, touch
from load_script import load_script
from small_data import write_video_folders
from tiny import tiny_transformer, tiny_vqgan
from watching import Watch, assert_moments_kept, watched

from tats.models.vqgan import VQGAN
from tats.training.resume import SafeCheckpointIO, check_optimizer_states

CLIP = "--resolution 16 --sequence_length 8 --batch_size 2 --num_workers 0"
QUIET = (
    "--progress_bar_refresh_rate 0 --enable_model_summary false --limit_val_batches 1"
    " --num_sanity_val_steps 0 --log_every_n_steps 1"
)
MODEL = (
    "--embedding_dim 8 --n_codes 32 --n_hiddens 4 --downsample 4 4 4 --norm_type batch"
    " --disc_channels 4 --disc_layers 2 --no_random_restart"
)
GPT = "--block_size 32 --n_layer 2 --n_head 2 --n_embd 16"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    names = [f"{split}/{name}" for split in ("train", "test") for name in ("cats/a", "dogs/b")]
    write_video_folders(root, dict.fromkeys(names, 11))
    return root


@pytest.fixture(scope="module")
def train_vqgan() -> ModuleType:
    return load_script("train_vqgan.py")


def published(vqgan: VQGAN, **others: Any) -> dict[str, Any]:
    """A file of the published Trainer after four steps, which it counted as five."""
    content = good_content(vqgan)
    content["hyper_parameters"]["args"] = argparse.Namespace(**content["hyper_parameters"]["args"])
    optimizers = vqgan.configure_optimizers()
    states = []
    for optimizer in optimizers:
        parameters = optimizer.param_groups[0]["params"]
        moments = {
            i: {"step": 4, "exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p)}
            for i, p in enumerate(parameters)
        }
        group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        states.append(
            {"state": moments, "param_groups": [{**group, "lr": 2e-5, "params": list(moments)}]}
        )
    return {
        **content,
        "epoch": 1,
        "global_step": 5,
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
        "optimizer_states": states,
        "lr_schedulers": [],
        **others,
    }


def train(script: ModuleType, videos: Path, folder: Path, command: str) -> None:
    """Run a training script in this process."""
    places = f"--data_path {videos} --default_root_dir {folder}"
    script.main(f"{places} {CLIP} {QUIET} {command}".split())


def test_a_published_vqgan_goes_on_with_everything_it_had(
    train_vqgan: ModuleType, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = published(tiny_vqgan(disc_channels=4))
    content["state_dict"]["codebook.N"] = torch.arange(1.0, 33.0)
    torch.save(content, tmp_path / "old.ckpt")
    watch = watched(monkeypatch)
    command = f"{MODEL} --max_steps 6 --resume_from_checkpoint {tmp_path}/old.ckpt"
    train(train_vqgan, videos, tmp_path / "run", command)
    assert (watch.step, watch.last_step) == (4, 6)
    for name, tensor in content["state_dict"].items():
        assert torch.equal(watch.weights[name], tensor), name
    assert_moments_kept(watch, content["optimizer_states"])
    (last,) = (tmp_path / "run").rglob("last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 6
    # The codebook learnt on from its counts: 2 steps of 2 forwards, decaying by 0.99 each.
    assert (saved["state_dict"]["codebook.N"] >= 0.99**4 * torch.arange(1.0, 33.0) - 1e-4).all()
    assert [int(state["state"][0]["step"]) for state in saved["optimizer_states"]] == [6, 6]


@pytest.mark.parametrize(
    ("others", "step"),
    [({}, 4), ({"pytorch-lightning_version": "2.6.0", "callbacks": None}, 0)],
    ids=["published", "without callbacks"],
)
def test_optimiser_states_that_do_not_fit_are_dropped_and_the_rest_is_kept(
    others: dict[str, Any],
    step: int,
    train_vqgan: ModuleType,
    videos: Path,
    tmp_path: Path,
    monkeypatch: Any,
    caplog: Any,
) -> None:
    content = published(tiny_vqgan(), **others)
    content["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(content, tmp_path / "old.ckpt")
    watch = watched(monkeypatch)
    command = f"{MODEL} --max_steps 5 --resume_from_checkpoint {tmp_path}/old.ckpt"
    train(train_vqgan, videos, tmp_path / "run", command)
    assert (watch.step, watch.states) == (step, [{}, {}])
    assert "optimiser states do not fit" in caplog.text


def test_training_goes_on_from_a_slim_checkpoint_with_its_codebook(
    train_vqgan: ModuleType, videos: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    content = published(tiny_vqgan())
    torch.save(content, tmp_path / "old.ckpt")
    load_script("scripts/slim_checkpoint.py").main(
        [str(tmp_path / "old.ckpt"), str(tmp_path / "slim.safetensors")]
    )
    watch = watched(monkeypatch)
    command = f"{MODEL} --max_steps 1 --resume_from_checkpoint {tmp_path}/slim.safetensors"
    train(train_vqgan, videos, tmp_path / "run", command)
    assert (watch.step, watch.last_step) == (0, 1)
    for name in ("encoder.conv_first.conv.weight", "codebook.embeddings", "codebook.z_avg"):
        assert torch.equal(watch.weights[name], content["state_dict"][name])


def test_a_transformer_trains_on_a_slim_vqgan(videos: Path, tmp_path: Path, capsys: Any) -> None:
    torch.save(published(tiny_vqgan()), tmp_path / "old.ckpt")
    load_script("scripts/slim_checkpoint.py").main(
        [str(tmp_path / "old.ckpt"), str(tmp_path / "slim.safetensors")]
    )
    command = f"{GPT} --unconditional --vqvae {tmp_path}/slim.safetensors --max_steps 1"
    train(load_script("train_transformer.py"), videos, tmp_path / "run", command)
    assert list((tmp_path / "run").rglob("last.ckpt"))


REFUSED = {
    "a transformer's file": (
        lambda: good_content(tiny_transformer(unconditional=True)),
        "holds a transformer model; expected a vqgan",
    ),
    "another width": (
        lambda: published(tiny_vqgan(n_hiddens=8)),
        r"got \(16, 8, 4, 4, 4\); expected shape \(8, 4, 4, 4, 4\)",
    ),
    "another codebook": (lambda: published(tiny_vqgan(n_codes=16)), r"codebook\.\w+ got \(16"),
    "NaN": (
        lambda: _with_weight("codebook.embeddings", torch.full((32, 8), torch.nan)),
        "NaN or infinite",
    ),
    "a step that is a text": (
        lambda: published(tiny_vqgan(), global_step="5"),
        "has str for its global_step; expected a count",
    ),
    "a negative epoch": (lambda: published(tiny_vqgan(), epoch=-2), "has -2 for its epoch"),
    "a hostile callback": (
        lambda: published(tiny_vqgan(), callbacks={"a": touch()}),
        "is broken or cannot be read safely",
    ),
}


def _with_weight(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    content = published(tiny_vqgan())
    content["state_dict"][name] = tensor
    return content


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_resumed_gets_one_line(
    kind: str, train_vqgan: ModuleType, videos: Path, tmp_path: Path, capfd: Any, monkeypatch: Any
) -> None:
    make, expected = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    torch.save(make(), tmp_path / "old.ckpt")
    with pytest.raises(SystemExit) as exit_:
        command = f"{MODEL} --max_steps 5 --resume_from_checkpoint {tmp_path}/old.ckpt"
        train(train_vqgan, videos, tmp_path / "run", command)
    error = capfd.readouterr().err
    assert exit_.value.code == 2 and "Traceback" not in error
    (line,) = [line for line in error.splitlines() if "error:" in line]
    assert "--resume_from_checkpoint" in line
    assert re.search(expected, line), line
    assert not (tmp_path / "executed").exists()
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_files_of_todays_trainer_are_passed_on_as_they_are(tmp_path: Path) -> None:
    content = {"pytorch-lightning_version": "2.6.0", "global_step": 5, "state_dict": {}}
    content |= {"loops": {}, "callbacks": {"a": {}}}
    torch.save(content, tmp_path / "new.ckpt")
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "new.ckpt") == content


def test_a_watch_sees_what_a_fresh_run_starts_with(
    train_vqgan: ModuleType, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch: Watch = watched(monkeypatch)
    train(train_vqgan, videos, tmp_path, f"{MODEL} --max_steps 1")
    assert (watch.step, watch.states, watch.last_step) == (0, [{}, {}], 1)


# --- optimiser states -------------------------------------------------------------------------


def adam_of(*shapes: tuple[int, ...]) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = torch.optim.Adam(parameters)
    sum((parameter**2).sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    return optimizer


def test_optimiser_states_that_fit_are_kept() -> None:
    states = [adam_of((2, 3)).state_dict(), adam_of((4,)).state_dict()]
    checkpoint: dict[str, Any] = {"optimizer_states": states}
    check_optimizer_states(checkpoint, [adam_of((2, 3)), adam_of((4,))])
    assert checkpoint["optimizer_states"] == states


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state["state"][0].update(exp_avg=torch.zeros(3, 2)),
        lambda state: state["state"][0].update(exp_avg_sq=torch.full((2, 3), torch.nan)),
        lambda state: state["param_groups"][0].update(params=[0, 1]),
        lambda state: state.update(param_groups=3),
        lambda state: state.update(state="none"),
        lambda state: state["state"][0].update(exp_avg="none"),
    ],
)
def test_optimiser_states_that_do_not_fit_are_dropped_with_a_warning(
    spoil: Any, caplog: Any
) -> None:
    state = adam_of((2, 3)).state_dict()
    spoil(state)
    checkpoint: dict[str, Any] = {"optimizer_states": [state]}
    check_optimizer_states(checkpoint, [adam_of((2, 3))])
    assert checkpoint["optimizer_states"] == [] and "fresh" in caplog.text
