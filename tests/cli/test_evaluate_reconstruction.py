"""Reconstruction scores from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from load_script import load_script
from tiny import save_checkpoint, tiny_vqgan
from torch import Tensor, nn

from tats.evaluation.i3d import WeightSource
from tats.models.vqgan import VQGAN
from tats.video_io import write_video


class Colours(nn.Module):
    """Stands for I3D and for LPIPS, whose weights a test cannot count on."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, video: Tensor, other: Tensor | None = None) -> Tensor:
        if other is not None:
            return (video - other).abs().mean(dim=(1, 2, 3), keepdim=True)
        return video[:, :, ::8].mean(dim=(3, 4)).flatten(1)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("scripts/evaluate_reconstruction.py")
    monkeypatch.setattr(module, "load_i3d", lambda path: Colours())
    monkeypatch.setattr(module, "load_lpips", lambda path: Colours())
    monkeypatch.setattr(module, "i3d_source", lambda path: WeightSource("test", "none", "0"))
    return module


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    for split in ("train", "test"):
        for i in range(2):
            frames = np.random.RandomState(i).randint(0, 255, (18, 16, 16, 3)).astype(np.uint8)
            write_video(tmp_path / "data" / split / "walk" / f"{i}.mp4", frames, fps=8)
    checkpoint = save_checkpoint(tiny_vqgan(), tmp_path / "vqgan.ckpt")
    flags = {"vqgan_ckpt": checkpoint, "data_path": tmp_path / "data", "resolution": 16}
    flags |= {"num_workers": 0, "batch_size": 2, "device": "cpu"}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def test_a_reconstruction_is_scored_on_every_clip(script, command, capsys):
    script.main(command)
    result = json.loads(capsys.readouterr().out)
    assert result["n_clips"] == 6 and result["split"] == "train"  # two videos of three windows
    assert result["rfvd"] > 0 and result["lpips"] > 0
    assert 0 < result["psnr"] < 30 and -1 < result["ssim"] < 1


def test_a_perfect_reconstruction_scores_perfectly(script, command, capsys, monkeypatch):
    monkeypatch.setattr(VQGAN, "reconstruct", lambda self, video: video)
    script.main([*command, "--n_clips", "3", "--split", "test"])
    result = json.loads(capsys.readouterr().out)
    assert result["n_clips"] == 3 and result["split"] == "test"
    assert result["rfvd"] == pytest.approx(0, abs=1e-9) and result["lpips"] == 0
    assert result["psnr"] == 100 and result["ssim"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n_clips", "1"], "--n_clips: got 1"),
        (["--sequence_length", "8"], "clips of 8 frames"),
        (["--image_channels", "1"], "--vtokens, --image_channels: got False, 1"),
        (["--vqgan_ckpt", "nowhere.ckpt"], "--vqgan_ckpt"),
        (["--data_path", "nowhere"], "--data_path"),
        (["--device", "cuda:9"], "--device got cuda:9"),
    ],
)
def test_what_cannot_be_measured_is_refused(script, command, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main([*command, *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
