"""From raw sound and games to conditioned samples: every stage, a few steps each."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from load_script import load_script
from small_sound import write_drums

from tats.text import find_vocabulary

SMALL = (
    "--num_workers 0 --batch_size 2 --resolution 16 --sequence_length 16 --max_steps 2"
    " --limit_train_batches 4 --limit_val_batches 1 --progress_bar_refresh_rate 0"
)
VQGAN = "--embedding_dim 8 --n_codes 32 --n_hiddens 4 --norm_type batch --disc_channels 4"
GPT = "--n_layer 1 --n_head 2 --n_embd 16"
WITHOUT_GAN = "--image_channels 1 --image_gan_weight 0 --video_gan_weight 0"


def train(script: str, flags: str, folder: Path) -> Path:
    """Run a training script; the checkpoint it leaves."""
    load_script(script).main(shlex.split(f"{SMALL} --default_root_dir {folder} {flags}"))
    (last,) = folder.glob("lightning_logs/version_0/checkpoints/last.ckpt")
    return last


def run(script: str, flags: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    load_script(script).main(shlex.split(flags))
    return json.loads(capsys.readouterr().out)


def refused(script: str, flags: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        load_script(script).main(shlex.split(flags))
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Raw data with sound, and what was trained on them."""
    root = tmp_path_factory.mktemp("sound")
    data = write_drums(root / "drums")
    vqgan = train("train_vqgan.py", f"{VQGAN} --data_path {data / 'video'}", root / "vqgan")
    stft = train(
        "train_vqgan.py",
        f"{VQGAN} {WITHOUT_GAN} --stft_data --data_path {data} --downsample 4 16 8",
        root / "stft",
    )
    gpt = train(
        "train_transformer.py",
        f"{GPT} --stft_data --cond_stage_key stft --stft_vqvae {stft} --vqvae {vqgan}"
        f" --data_path {data} --block_size 96",
        root / "gpt",
    )
    return {"data": data, "vqgan": vqgan, "stft": stft, "gpt": gpt}


@pytest.mark.slow
def test_sound_goes_from_raw_data_to_samples(sound, tmp_path, capsys):
    stft = torch.load(sound["stft"], weights_only=True)
    assert stft["hyper_parameters"]["args"]["image_channels"] == 1
    models = f"--gpt_ckpt {sound['gpt']} --vqgan_ckpt {sound['vqgan']}"
    models += f" --stft_vqgan_ckpt {sound['stft']}"
    flags = f"--data_path {sound['data']} --n_sample 2 --save {tmp_path} {models}"
    result = run("sample_vqgan_transformer_audio_cond.py", flags, capsys)
    assert np.load(result["clips"]).shape == (2, 16, 16, 16, 3)

    data = f"--data_path {sound['data']} --stft_data --resolution 16 --batch_size 2"
    figures = run(
        "scripts/evaluate_heldout.py", f"{data} {models} --n_clips 2 --shuffle_condition", capsys
    )
    assert figures["n_clips"] == 2
    difference = figures["transformer_loss_shuffled"] - figures["transformer_loss"]
    assert figures["gain_per_clip"] == pytest.approx(64 * difference, abs=1e-4)


@pytest.mark.slow
def test_pictures_of_spectrograms_use_their_whole_range(sound):
    from tats.models.vqgan import load_vqgan
    from tats.training.callbacks import compare_with_reconstruction

    vqgan = load_vqgan(sound["stft"])
    assert vqgan.latent_shape == (4, 4, 2)
    stft = torch.linspace(-1, 1, 16 * 64 * 16).view(1, 1, 16, 64, 16)
    clips = compare_with_reconstruction(vqgan, {"stft": stft}, n_clips=1)
    assert clips.shape == (2, 16, 64, 16, 3)
    assert clips[0].unique().numel() == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--stft_vqvae {vqgan}",
            "--stft_vqvae (when sampling: --stft_vqgan_ckpt) got a VQGAN of 3",
        ),
        ("--stft_vqvae {stft} --sequence_length 8", "--sequence_length got 8; expected 16"),
        ("--stft_vqvae {stft} --block_size 94", "--block_size got 94; expected at least 95"),
    ],
)
def test_models_of_sound_that_do_not_fit_are_refused(sound, tmp_path, capsys, flags, said):
    common = f"{SMALL} {GPT} --stft_data --cond_stage_key stft --vqvae {sound['vqgan']}"
    common += f" --data_path {sound['data']} --block_size 96 --default_root_dir {tmp_path / 'out'}"
    assert said in refused("train_transformer.py", f"{common} {flags.format(**sound)}", capsys)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_captions_go_from_simulated_games_to_samples(tmp_path, capsys):
    try:
        find_vocabulary()
    except ValueError:
        pytest.skip("set-up had no network")
    flags = f"--mugen --out {tmp_path} --frames 20 --clips_per_class 4 --test_clips_per_class 3"
    data = run("scripts/make_demo_data.py", flags, capsys)["data_path"]
    vqgan = train("train_vqgan.py", f"{VQGAN} --data_path {data}", tmp_path / "vqgan")
    gpt = train(
        "train_transformer.py",
        f"{GPT} --data_path {data} --text_cond --cond_stage_key text --text_seq_len 32"
        f" --vqvae {vqgan} --block_size 96",
        tmp_path / "gpt",
    )
    models = f"--gpt_ckpt {gpt} --vqgan_ckpt {vqgan}"
    flags = f"{models} --save {tmp_path / 'samples'} --text 'Mugen jumps up'"
    result = run("sample_vqgan_transformer_text_cond.py", flags, capsys)
    assert np.load(result["clips"]).shape == (1, 16, 16, 16, 3)

    data = f"--data_path {data} --text_cond --text_seq_len 32 --resolution 16 --batch_size 2"
    flags = f"{data} {models} --n_clips 3 --shuffle_condition"
    figures = run("scripts/evaluate_heldout.py", flags, capsys)
    assert figures["n_clips"] == 2  # the third has no other clip beside it
    assert np.isfinite(figures["transformer_loss_shuffled"])


@pytest.mark.slow
def test_conditions_that_are_not_there_cannot_be_shuffled(sound, capsys):
    flags = f"--vqgan_ckpt {sound['vqgan']} --data_path {sound['data'] / 'video'}"
    line = refused(
        "scripts/evaluate_heldout.py", f"{flags} --resolution 16 --shuffle_condition", capsys
    )
    assert "--shuffle_condition got no conditional model" in line
    line = refused("scripts/evaluate_heldout.py", f"{flags} --device cuda:9", capsys)
    assert "--device got cuda:9" in line
