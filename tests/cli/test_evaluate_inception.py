"""Inception Score and coherence from the command line, with a stand-in for C3D."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from load_script import load_script
from torch import Tensor, nn


class Brightness(nn.Module):
    """Sorts clips into five classes by their brightness, surely."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, clips: Tensor) -> Tensor:
        assert clips.shape[1] == 16 and clips.dtype == torch.uint8
        return nn.functional.one_hot(clips[:, 0, 0, 0, 0].long() // 50, 5).float()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = load_script("scripts/evaluate_inception.py")
    monkeypatch.setattr(module, "load_c3d", lambda weights, mean: Brightness())
    (tmp_path / "c3d.npz").touch()
    return module


def command(folder: Path, videos: np.ndarray) -> list[str]:
    np.save(folder / "clips.npy", videos)
    weights = ["--c3d_weights", str(folder / "c3d.npz"), "--c3d_mean", str(folder / "mean.npz")]
    return ["--clips", str(folder / "clips.npy"), "--device", "cpu", "--batch_size", "3", *weights]


def levels(*videos: list[int]) -> np.ndarray:
    """Videos of 16-frame clips with the given brightness."""
    array = np.array(videos, dtype=np.uint8).repeat(16, axis=1)
    return np.broadcast_to(array[:, :, None, None, None], (*array.shape, 4, 4, 3))


def test_sixteen_frames_give_the_inception_score(script, tmp_path, capsys):
    script.main(command(tmp_path, levels([0], [60], [110], [160], [0], [60], [110], [160])))
    result = json.loads(capsys.readouterr().out)
    assert result["inception_score"] == pytest.approx(4, rel=1e-4)
    assert result["n_videos"] == 8


def test_longer_videos_give_the_coherence_of_their_clips(script, tmp_path, capsys):
    script.main(command(tmp_path, levels([0, 0, 60], [60, 110, 60])))
    result = json.loads(capsys.readouterr().out)
    assert result["ccs"] == [1, 0.5, 0.5]
    assert result["ics"][0] == 0 and result["ics"][1] > 0
    assert result["n_frames"] == 48


@pytest.mark.parametrize(
    ("videos", "flags", "message"),
    [
        (levels([0])[:, :15], [], "T a multiple of 16"),
        (levels([0]).astype(np.float32), [], "--clips: got float32"),
        (levels([0]), ["--n_splits", "2"], "--n_splits: got 2"),
        (levels([0]), ["--batch_size", "0"], "--batch_size: got 0"),
        (levels([0]), ["--clips", "nowhere.npy"], "--clips: got nowhere.npy"),
    ],
)
def test_what_cannot_be_scored_is_refused(script, tmp_path, capsys, videos, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main([*command(tmp_path, videos), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
