"""The training scripts, end to end on small videos: what is trained, written, resumed, shared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from load_script import REPOSITORY, load_script
from small_data import write_frame_folders, write_hdf5, write_video_folders

from tats.models.transformer import load_transformer
from tats.models.vqgan import load_vqgan

QUIET = "--num_workers 0 --progress_bar_refresh_rate 0 --enable_model_summary false"
CLIP = "--resolution 16 --sequence_length 8 --batch_size 2"
VQGAN = (
    "--embedding_dim 8 --n_codes 32 --n_hiddens 4 --downsample 4 4 4 --norm_type batch"
    " --disc_channels 4 --disc_layers 2 --discriminator_iter_start 1 --lr 1e-2"
)
GPT = "--block_size 32 --n_layer 1 --n_head 2 --n_embd 16"


@pytest.fixture(scope="module")
def train_vqgan() -> ModuleType:
    return load_script("train_vqgan.py")


@pytest.fixture(scope="module")
def train_transformer() -> ModuleType:
    return load_script("train_transformer.py")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of two classes, in both splits."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"{split}/{name}" for split in ("train", "test") for name in ("cats/a", "dogs/b")]
    write_video_folders(root, dict.fromkeys(names, 11))  # four clips a video
    return root


def checkpoint_of(folder: Path, version: int = 0) -> Path:
    return folder / "lightning_logs" / f"version_{version}" / "checkpoints" / "last.ckpt"


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def vqgan(videos: Path, train_vqgan: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VQGAN of two steps."""
    folder = tmp_path_factory.mktemp("vqgan")
    command = f"--data_path {videos} --default_root_dir {folder} --max_steps 2"
    train_vqgan.main(f"{command} {CLIP} {VQGAN} {QUIET}".split())
    return checkpoint_of(folder)


def test_a_trained_vqgan_loads_and_was_trained_at_the_scaled_rate_of_the_flag_it_stores(vqgan):
    model, content = load_vqgan(vqgan), read(vqgan)
    assert model.latent_shape == (2, 4, 4)
    assert model.args.lr == 1e-2  # so that who trains again from these settings scales it once
    for state in content["optimizer_states"]:
        assert state["param_groups"][0]["lr"] == pytest.approx(1e-2 / 8 * 2 / 4)
    assert content["global_step"] == 2


@pytest.mark.parametrize("condition", ["", "--unconditional"])
def test_a_transformer_trains_on_the_vqgan_and_loads(
    videos, vqgan, train_transformer, tmp_path, condition
):
    command = f"--data_path {videos} --vqvae {vqgan} --default_root_dir {tmp_path} --max_steps 2"
    train_transformer.main(f"{command} {condition} {CLIP} {GPT} {QUIET}".split())
    written = checkpoint_of(tmp_path)
    assert read(written)["global_step"] == 2
    model = load_transformer(written, vqgan)
    assert model.cond_vocab_size == (0 if condition else 2)
    trained_rate = read(written)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert trained_rate == pytest.approx(2 * 4.5e-6)


def test_training_moves_the_transformer_and_leaves_its_vqgan_alone(
    videos, vqgan, train_transformer, tmp_path
):
    command = f"--data_path {videos} --vqvae {vqgan} --default_root_dir {tmp_path}"
    for steps in (1, 3):
        flags = f"--max_steps {steps} --base_lr 1e-3 --resume_from_checkpoint last"
        train_transformer.main(f"{command} {flags} {CLIP} {GPT} {QUIET}".split())
    one, three = (read(checkpoint_of(tmp_path, version)) for version in (0, 1))
    assert (one["global_step"], three["global_step"]) == (1, 3)
    source = read(vqgan)["state_dict"]
    for name, tensor in three["state_dict"].items():
        if name.startswith("first_stage_model."):
            assert torch.equal(tensor, source[name.removeprefix("first_stage_model.")]), name
    name = "transformer.blocks.0.mlp.0.weight"
    assert not torch.equal(one["state_dict"][name], three["state_dict"][name])


def test_a_vqgan_trains_on_frame_folders_and_hdf5(train_vqgan, tmp_path):
    write_frame_folders(tmp_path / "frames", {"train/sky": 10, "test/sky": 10})
    write_hdf5(tmp_path / "clips.h5", {"train": [10, 12], "test": [10]})
    for number, source in enumerate(("frames --image_folder", "clips.h5")):
        root = tmp_path / f"run{number}"
        command = f"--data_path {tmp_path}/{source} --default_root_dir {root} --max_steps 1"
        train_vqgan.main(f"{command} {CLIP} {VQGAN} {QUIET}".split())
        assert read(checkpoint_of(root))["global_step"] == 1


def test_a_transformer_trains_on_stored_codes_with_their_place(train_transformer, tmp_path):
    codes = np.random.default_rng(0).integers(0, 50, (20, 6, 6))
    with h5py.File(tmp_path / "codes.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}_data"], file[f"{split}_idx"] = codes, np.array([0, 10, 20])
    command = (
        f"--data_path {tmp_path}/codes.h5 --default_root_dir {tmp_path} --max_steps 1 {GPT} {QUIET}"
        " --vtokens --vtokens_pos --unconditional --first_stage_vocab_size 50 --batch_size 2"
        " --sequence_length 2 --resolution 6 --spatial_length 4"
    )
    train_transformer.main(command.split())
    assert load_transformer(checkpoint_of(tmp_path), "").first_stage_vocab_size == 50


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    videos, train_vqgan, tmp_path
):
    weights = []
    for number, seed in enumerate((1234, 1234, 7)):
        root = tmp_path / str(number)
        command = f"--data_path {videos} --default_root_dir {root} --max_steps 2 --seed {seed}"
        train_vqgan.main(f"{command} {CLIP} {VQGAN} {QUIET}".split())
        weights.append(read(checkpoint_of(root))["state_dict"]["codebook.embeddings"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("precision", "weights"),
    [("bf16", torch.float32), ("bf16-true", torch.bfloat16), ("64", torch.float64)],
)
def test_both_stages_train_in_other_number_formats_and_load(
    videos, train_vqgan, train_transformer, tmp_path, precision, weights
):
    vqgan, gpt = tmp_path / "vqgan", tmp_path / "gpt"
    command = f"--data_path {videos} --max_steps 2 --precision {precision} {CLIP} {QUIET}"
    clipped = "--gradient_clip_val 1 --accumulate_grad_batches 2"
    train_vqgan.main(f"{command} --default_root_dir {vqgan} {VQGAN} {clipped}".split())
    first_stage = f"--vqvae {checkpoint_of(vqgan)}"
    train_transformer.main(f"{command} --default_root_dir {gpt} {first_stage} {GPT}".split())
    state = read(checkpoint_of(vqgan))["state_dict"]
    codebook = {state.pop(f"codebook.{name}").dtype for name in ("embeddings", "N", "z_avg")}
    assert codebook == {torch.float32}
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {weights}
    model = load_transformer(checkpoint_of(gpt), checkpoint_of(vqgan))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_two_processes_train_together_on_the_cpu(videos, tmp_path):
    command = (
        f"train_vqgan.py --data_path {videos} --default_root_dir {tmp_path} --max_steps 2"
        f" --accelerator cpu --strategy ddp --devices 2 {CLIP} {VQGAN} {QUIET}"
    )
    run = subprocess.run(
        [sys.executable, *command.split()],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Starting with 2 processes" in run.stderr
    last = read(checkpoint_of(tmp_path))
    assert last["global_step"] == 2
    # Both processes' vectors are counted: N decays from 1 by 0.99 and gains 0.01 a vector, at
    # each of two forwards a step, and every batch of a process gives 2 clips of 2·4·4 vectors.
    n_codes, vectors = 32, 2 * 2 * (2 * 4 * 4)
    expected = float(n_codes)
    for _ in range(4):
        expected = 0.99 * expected + 0.01 * vectors
    assert last["state_dict"]["codebook.N"].sum().item() == pytest.approx(expected, rel=1e-5)
    assert not (tmp_path / "lightning_logs" / "version_1").exists()
