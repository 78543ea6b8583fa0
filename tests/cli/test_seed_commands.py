"""The published command lines parse, and the training ones train, at reduced size.

The lines are those of the published README, broken differently.
"""

from __future__ import annotations

import itertools
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from load_script import REPOSITORY, load_script

from tats.flags import (
    add_audio_sampling_flags,
    add_hierarchical_sampling_flags,
    new_parser,
)
from tats.video_io import write_video
from tats.weights.catalogue import is_fetched

TRAIN_VQGAN = """
python train_vqgan.py --embedding_dim 256 --n_codes 16384 --n_hiddens 32 --downsample 4 8 8
    --no_random_restart --gpus 8 --sync_batchnorm --batch_size 2 --num_workers 32
    --accumulate_grad_batches 6 --progress_bar_refresh_rate 500 --max_steps 2000000
    --gradient_clip_val 1.0 --lr 3e-5 --data_path {DATAPATH} --default_root_dir {CKPTPATH}
    --resolution 128 --sequence_length 16 --discriminator_iter_start 10000 --norm_type batch
    --perceptual_weight 4 --image_gan_weight 1 --video_gan_weight 1 --gan_feat_weight 4
"""
TRAIN_BASE = """
python train_transformer.py --num_workers 32 --val_check_interval 0.5
    --progress_bar_refresh_rate 500 --gpus 8 --sync_batchnorm --batch_size 3 --unconditional
    --vqvae {VQGAN-CKPT} --data_path {DATAPATH} --default_root_dir {CKPTPATH} --vocab_size
    16384 --block_size 1024 --n_layer 24 --n_head 16 --n_embd 1024 --resolution 128
    --sequence_length 16 --max_steps 2000000
"""
TRAIN_INTERPOLATION = """
python train_transformer.py --num_workers 32 --val_check_interval 0.5
    --progress_bar_refresh_rate 500 --gpus 8 --sync_batchnorm --batch_size 3 --unconditional
    --vqvae {VQGAN-CKPT} --data_path {DATAPATH} --default_root_dir {CKPTPATH} --vocab_size
    16384 --block_size 1280 --n_layer 24 --n_head 16 --n_embd 1024 --resolution 128
    --sequence_length 20 --spatial_length 128 --n_unmasked 256 --max_steps 2000000
"""
TRAIN_AUTOREGRESSIVE = """
python train_transformer.py --num_workers 32 --val_check_interval 0.5
    --progress_bar_refresh_rate 500 --gpus 8 --sync_batchnorm --batch_size 4 --unconditional
    --vqvae {VQGAN-CKPT} --data_path {DATAPATH} --default_root_dir {CKPTPATH} --vocab_size
    16384 --block_size 1024 --n_layer 24 --n_head 16 --n_embd 1024 --resolution 128
    --sequence_length 64 --sample_every_n_latent_frames 4 --spatial_length 128 --max_steps
    2000000
"""
SAMPLE_SHORT = """
python sample_vqgan_transformer_short_videos.py --gpt_ckpt {GPT-CKPT} --vqgan_ckpt
    {VQGAN-CKPT} --class_cond --save {SAVEPATH} --data_path {DATAPATH} --batch_size 16
    --resolution 128 --top_k 2048 --top_p 0.8 --dataset {DATANAME} --compute_fvd
    --save_videos
"""
SAMPLE_LONG = """
python sample_vqgan_transformer_long_videos.py --gpt_ckpt {GPT-CKPT} --vqgan_ckpt
    {VQGAN-CKPT} --dataset ucf101 --class_cond --sample_length 16 --temporal_sample_pos 1
    --batch_size 5 --n_sample 5 --save_videos
"""
SAMPLE_AUDIO = """
python sample_vqgan_transformer_audio_cond.py --gpt_ckpt {GPT-CKPT} --vqgan_ckpt
    {VQGAN-CKPT} --stft_vqgan_ckpt {STFT-CKPT} --dataset drum --n_sample 10
"""
SAMPLE_HIERARCHICAL = """
python sample_vqgan_transformer_hierarchical.py --ckpt1 {AR-CKPT} --CKPT2
    {Interpolation-CKPT} --vqgan {VQGAN-CKPT} --dataset sky --top_k_init 2048 --top_p_init
    0.8 --top_k 2048 --top_p 0.8 --temporal_sample_pos 1
"""
TRANSFORMERS = {
    "base": (TRAIN_BASE, 4 * 4 * 4),
    "interpolation": (TRAIN_INTERPOLATION, 5 * 4 * 4),
    "autoregressive": (TRAIN_AUTOREGRESSIVE, 4 * 4 * 4),
}
SMALL_RUN = (
    "--gpus 0 --num_workers 0 --batch_size 2 --resolution 32 --max_steps 2 --limit_train_batches 4"
    " --limit_val_batches 1 --progress_bar_refresh_rate 0"
)
SMALL_VQGAN = "--embedding_dim 8 --n_codes 32 --n_hiddens 4 --disc_channels 4"
SMALL_GPT = "--n_layer 1 --n_head 2 --n_embd 16"


def words(command: str, **places: object) -> list[str]:
    """Split a published line into its script and its flags, with its {PLACES} filled in."""
    for name, value in places.items():
        command = command.replace("{" + name.replace("_", "-") + "}", str(value))
    python, *line = command.split()
    assert python == "python"
    return line


def parser_of(script: str) -> ArgumentParser:
    """The script's own parser; the two samplers still to come have only their flags."""
    to_come: dict[str, Callable[[ArgumentParser], None]] = {
        "sample_vqgan_transformer_audio_cond.py": add_audio_sampling_flags,
        "sample_vqgan_transformer_hierarchical.py": add_hierarchical_sampling_flags,
    }
    if script in to_come and not (REPOSITORY / script).exists():
        parser = new_parser("a sampler")
        to_come[script](parser)
        return parser
    return load_script(script).build_parser()


@pytest.mark.parametrize(
    "command",
    [
        TRAIN_VQGAN,
        TRAIN_BASE,
        TRAIN_INTERPOLATION,
        TRAIN_AUTOREGRESSIVE,
        SAMPLE_SHORT,
        SAMPLE_LONG,
        SAMPLE_AUDIO,
        SAMPLE_HIERARCHICAL,
    ],
    ids=lambda command: command.split()[1] + "-" + str(len(command)),
)
def test_every_published_line_parses_and_sets_every_flag_it_names(command):
    script, *flags = words(command)
    parsed = vars(parser_of(script).parse_args(flags))
    named = {flag.removeprefix("--").lower() for flag in flags if flag.startswith("--")}
    assert named <= parsed.keys()
    for flag, value in itertools.pairwise(flags):
        name = flag.removeprefix("--").lower()
        if flag.startswith("--") and not value.startswith("--") and name != "downsample":
            assert str(parsed[name]) == value or float(parsed[name]) == float(value)
        elif flag.startswith("--") and value.startswith("--"):
            assert parsed[name] is True


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos long enough for every published clip length."""
    root = tmp_path_factory.mktemp("videos")
    pixels = np.random.default_rng(0).integers(0, 256, (66, 32, 32, 3), dtype=np.uint8)
    for name in ("train/a/1", "train/b/2", "test/a/3"):
        write_video(root / f"{name}.mp4", pixels, fps=10)
    return root


def train(command: str, extra: str, videos: Path, folder: Path, vqgan: Path | str = "") -> Path:
    """Run a published training line with smaller sizes after it; the checkpoint it leaves."""
    script, *flags = words(command, DATAPATH=videos, CKPTPATH=folder, VQGAN_CKPT=vqgan)
    load_script(script).main([*flags, *SMALL_RUN.split(), *extra.split()])
    (last,) = folder.glob("lightning_logs/version_0/checkpoints/last.ckpt")
    return last


@pytest.fixture(scope="module")
def vqgan(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    extra = SMALL_VQGAN
    if not is_fetched("vgg16"):  # a machine whose set-up had no network
        extra += " --perceptual_weight 0"
    return train(TRAIN_VQGAN, extra, videos, tmp_path_factory.mktemp("vqgan"))


def test_the_published_vqgan_line_trains(vqgan):
    content = torch.load(vqgan, weights_only=True)
    args = content["hyper_parameters"]["args"]
    assert content["global_step"] == 2
    assert (args["downsample"], args["no_random_restart"]) == ([4, 8, 8], True)
    assert args["lr"] == 3e-5, "as given"
    rates = [state["param_groups"][0]["lr"] for state in content["optimizer_states"]]
    assert rates == pytest.approx([3e-5 * 6 * (1 / 8) * (2 / 4)] * 2), "scaled to the run"


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_published_transformer_lines_train(kind, videos, vqgan, tmp_path):
    command, n_tokens = TRANSFORMERS[kind]
    content = torch.load(train(command, SMALL_GPT, videos, tmp_path, vqgan), weights_only=True)
    assert content["global_step"] == 2
    moved = content["optimizer_states"][0]["state"].values()
    # Only positions that are read have a gradient: one start token and all but the last token.
    (positions,) = [state["exp_avg"] for state in moved if state["exp_avg"].ndim == 3]
    assert int((positions[0] != 0).any(dim=1).sum()) == n_tokens
