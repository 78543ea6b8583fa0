"""What the training scripts say to a user's mistake: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from load_script import load_script
from small_data import write_video_folders
from small_games import frame, record
from small_sound import drum_paths, frame_stft, write_drums, write_pickle
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

CLIP = "--resolution 16 --sequence_length 16 --batch_size 2 --num_workers 0 --max_steps 1"
SMALL = {
    "train_vqgan.py": "--embedding_dim 8 --n_codes 32 --n_hiddens 16",
    "train_transformer.py": "--vqvae {vqgan} --n_layer 1 --n_head 2 --n_embd 16 --block_size 64",
}

SOUND = "--stft_data --image_channels 1 --image_gan_weight 0 --video_gan_weight 0"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good and bad data folders and checkpoints, by name."""
    root = tmp_path_factory.mktemp("places")
    write_video_folders(root / "videos", {"train/a/1": 18, "train/b/2": 18, "test/a/3": 18})
    write_video_folders(root / "no_test", {"train/a/1": 18})
    write_video_folders(root / "no_split", {"a/1": 18})
    write_video_folders(root / "short", {"train/a/1": 5, "test/a/2": 5})
    (root / "empty").mkdir()
    for split in ("train", "test"):
        (root / "corrupt" / split / "a").mkdir(parents=True)
        for number in range(3):
            (root / "corrupt" / split / "a" / f"{number}.mp4").write_bytes(b"no video" * 100)
    with h5py.File(root / "clips.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}_data"] = np.zeros((20, 16, 16, 3), np.uint8)
            file[f"{split}_idx"] = np.array([0, 20])
    for name, array in {"turned": frame_stft().swapaxes(1, 2), "loud": 2 + frame_stft()}.items():
        drums = write_drums(root / name)
        write_pickle(drum_paths(drums, "folders", "train", "clip0")[0], array)
    for name, zoom in {"coinrun": 5.5, "coinrun_zoom": 3.0}.items():
        for split in ("train", "test"):
            (root / name / split).mkdir(parents=True)
            game = record([frame() for _ in range(18)], zoom=zoom)
            (root / name / split / "game.json").write_text(json.dumps(game))
    (root / "text.ckpt").write_text("this is no checkpoint")
    vqgan = tiny_vqgan()
    save_checkpoint(vqgan, root / "vqgan.ckpt")
    save_checkpoint(tiny_transformer(vqgan, unconditional=True), root / "gpt.ckpt")
    (root / "cut.ckpt").write_bytes((root / "vqgan.ckpt").read_bytes()[:2000])
    save_checkpoint(tiny_vqgan(downsample=(4, 4, 8)), root / "wide.ckpt")
    return {path.stem: path for path in root.iterdir()} | {"missing": root / "nowhere"}


MISTAKES = [
    # data
    ("train_vqgan.py", "", "--data_path is missing"),
    ("train_vqgan.py", "--data_path {missing}", "--data_path got .*which does not exist"),
    ("train_vqgan.py", "--data_path {empty}", "--data_path got .*which is empty"),
    ("train_vqgan.py", "--data_path {no_split}", "train"),
    ("train_vqgan.py", "--data_path {no_test}", "test"),
    ("train_vqgan.py", "--data_path {corrupt}", "unreadable"),
    ("train_vqgan.py", "--data_path {short}", "shorter than a clip"),
    ("train_vqgan.py", "--data_path {text}", "--data_path"),
    ("train_vqgan.py", "--data_path {clips} --smap_cond 1", "--smap_cond got 1"),
    ("train_transformer.py", "--data_path {missing}", "--data_path got .*which does not exist"),
    ("train_transformer.py", "--data_path {clips}", "has no class labels"),
    ("train_vqgan.py", f"{SOUND} --data_path {{turned}}", r"clip0.pickle has shape \(.*17, 45\)"),
    ("train_vqgan.py", f"{SOUND} --data_path {{loud}}", r"clip0.pickle has values .* in \[0, 1\]"),
    ("train_vqgan.py", "--data_path {coinrun_zoom}", "zoom is 3.0; .*game.json"),
    ("train_vqgan.py", "--data_path {coinrun} --coinrun_assets {empty}", "assets .*empty has no"),
    # sizes
    ("train_vqgan.py", "--data_path {videos} --resolution 18", "--resolution gives 18"),
    ("train_vqgan.py", "--data_path {videos} --sequence_length 0", "--sequence_length got 0"),
    ("train_vqgan.py", "--data_path {videos} --sequence_length 6", "--sequence_length gives 6"),
    ("train_vqgan.py", "--data_path {videos} --batch_size 0", "--batch_size got 0"),
    ("train_transformer.py", "--data_path {videos} --block_size 63", "--block_size got 63"),
    ("train_transformer.py", "--data_path {videos} --vqvae {wide} --resolution 20", "gives 20"),
    ("train_transformer.py", "--data_path {videos} --n_unmasked 1", "--n_unmasked got 1"),
    # machine and trainer
    ("train_vqgan.py", "--data_path {videos} --gpus 8", "--gpus got 8; expected at most 0"),
    ("train_vqgan.py", "--data_path {videos} --precision 16", "--precision got 16"),
    ("train_vqgan.py", "--data_path {videos} --limit_train_batches 2.5", "limit_train_batches"),
    ("train_vqgan.py", "--data_path {videos} --amp_level O2", "--amp_level is no longer"),
    ("train_vqgan.py", "--data_path {videos} --seed -1", "--seed got -1"),
    # checkpoints
    ("train_transformer.py", "--data_path {videos} --vqvae {missing}", "--vqvae.*nowhere"),
    ("train_transformer.py", "--data_path {videos} --vqvae {text}", "--vqvae.*text.ckpt"),
    ("train_transformer.py", "--data_path {videos} --vqvae {cut}", "--vqvae.*cut.ckpt"),
    ("train_transformer.py", "--data_path {videos} --vqvae {gpt}", "transformer model; expected"),
    (
        "train_transformer.py",
        "--data_path {videos} --resume_from_checkpoint {vqgan}",
        "--resume_from_checkpoint.*vqgan model; expected",
    ),
    (
        "train_vqgan.py",
        "--data_path {videos} --resume_from_checkpoint {cut}",
        "--resume_from_checkpoint.*cut.ckpt",
    ),
    (
        "train_vqgan.py",
        "--data_path {videos} --resume_from_checkpoint {missing}",
        "--resume_from_checkpoint.*nowhere",
    ),
]


def complaint(script: str, command: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a script that must refuse its flags; the one line of its complaint."""
    with pytest.raises(SystemExit) as stopped:
        load_script(script).main(command.split())
    assert stopped.value.code == 2
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err and printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if ": error: " in line]
    return line


@pytest.mark.parametrize(("script", "mistake", "expected"), MISTAKES)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    script, mistake, expected, places, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    command = f"{SMALL[script]} {CLIP} --default_root_dir {tmp_path}/run {mistake}"
    line = complaint(script, command.format(**places), capfd)
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


def test_a_perceptual_loss_without_weights_says_how_to_get_them(
    places, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    command = f"--data_path {places['videos']} --default_root_dir {tmp_path}/r"
    command += " --perceptual_weight 4"
    line = complaint("train_vqgan.py", f"{SMALL['train_vqgan.py']} {CLIP} {command}", capfd)
    assert "scripts/fetch_weights.py" in line
    assert not (tmp_path / "r").exists()


def test_an_output_folder_that_cannot_be_written_is_named(places, tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    command = f"--data_path {places['videos']} --default_root_dir {tmp_path}/file/run"
    line = complaint("train_vqgan.py", f"{SMALL['train_vqgan.py']} {CLIP} {command}", capfd)
    assert "--default_root_dir got" in line
    assert (tmp_path / "file").read_text() == "in the way"
