"""Inception Score, coherence and reconstruction scores against hand-made cases; C3D's interface."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tats.errors import UserError
from tats.evaluation import c3d as c3d_module
from tats.evaluation.c3d import C3D, load_c3d
from tats.evaluation.scores import coherence, fidelity, inception_score, psnr


def test_sure_and_varied_predictions_score_the_number_of_classes():
    assert inception_score(torch.eye(5).repeat(4, 1)).mean == pytest.approx(5, rel=1e-4)


def test_predictions_that_never_vary_score_one():
    assert inception_score(torch.full((6, 4), 0.25)) == pytest.approx((1, 0))


def test_the_inception_score_is_its_definition():
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], dtype=torch.float64)
    q = p.mean(0)
    divergence = sum(float((row * (row / q).log()).sum()) for row in p) / 3
    assert inception_score(p).mean == pytest.approx(math.exp(divergence), rel=1e-5)


def test_splits_are_scored_apart():
    halves = torch.cat([torch.eye(4), torch.full((4, 4), 0.25)])
    score = inception_score(halves, n_splits=2)
    assert score == pytest.approx((2.5, 1.5), rel=1e-4)


def test_coherence_compares_each_clip_with_the_first_one():
    first, other = [0.8, 0.2], [0.1, 0.9]
    p = torch.tensor([[first, first, other], [first, other, other]])
    result = coherence(p)
    assert result.ccs.tolist() == [1, 0.5, 0]
    divergence = 0.1 * math.log(0.1 / 0.8) + 0.9 * math.log(0.9 / 0.2)
    assert result.ics.tolist() == pytest.approx([0, divergence / 2, divergence], rel=1e-5)


@pytest.mark.parametrize("bad", [torch.randn(3, 4), torch.ones(3, 4), torch.zeros(0, 4)])
def test_logits_are_not_taken_for_probabilities(bad: Tensor):
    with pytest.raises(UserError, match="probabilities: got"):
        inception_score(bad)


def test_more_splits_than_clips_are_refused():
    with pytest.raises(UserError, match="n_splits: got 4; expected 1 to 3"):
        inception_score(torch.eye(3), n_splits=4)


class FrameDifference(nn.Module):
    """Stands for LPIPS: mean absolute difference of frames in [-1, 1]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert max(a.abs().max(), b.abs().max()) <= 1
        return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)


def test_reconstruction_scores_follow_their_definitions():
    real = torch.randint(0, 240, (2, 3, 16, 16, 3), dtype=torch.uint8)
    fake = real.clone()
    fake[1] += 10
    scores = fidelity(real, fake, FrameDifference())
    assert scores.psnr.tolist() == pytest.approx([100, 20 * math.log10(255 / 10)])
    assert scores.ssim[0] == pytest.approx(1) and 0.5 < scores.ssim[1] < 0.9999
    assert scores.lpips.tolist() == pytest.approx([0, 10 / 127.5], rel=1e-4)
    assert fidelity(real, fake).lpips.isnan().all()


def test_psnr_is_the_same_on_every_scale_of_values():
    real, fake = torch.randint(0, 256, (2, 3, 3, 4, 16, 16), dtype=torch.uint8)
    as_models_see_them = psnr(real / 255 - 0.5, fake / 255 - 0.5, peak=1)
    assert torch.allclose(psnr(real, fake, peak=255), as_models_see_them, atol=1e-4)


def test_reconstructions_of_another_shape_are_refused():
    clips = torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="expected uint8"):
        fidelity(clips, clips[:, :1])
    with pytest.raises(ValueError, match="expected uint8"):
        fidelity(clips.float(), clips.float())


@pytest.fixture
def narrow_c3d(monkeypatch: pytest.MonkeyPatch) -> None:
    """C3D with 2 channels and 8 units a layer."""
    channels = dict.fromkeys(c3d_module._CHANNELS, (2, 2)) | {"conv1a": (3, 2)}
    monkeypatch.setattr(c3d_module, "_CHANNELS", channels)
    widths = {"fc6": (2 * 4 * 4, 8), "fc7": (8, 8), "fc8": (8, 101)}
    monkeypatch.setattr(c3d_module, "_WIDTHS", widths)


def save_c3d(folder: Path, mean: np.ndarray) -> tuple[Path, Path]:
    arrays = {}
    for name, value in C3D().state_dict().items():
        layer, _, kind = name.partition(".")
        if kind:
            arrays[f"{layer}/{'W' if kind == 'weight' else 'b'}"] = value.numpy()
    np.savez(folder / "weights.npz", **arrays)
    np.savez(folder / "mean.npz", mean=mean)
    return folder / "weights.npz", folder / "mean.npz"


def test_c3d_loads_a_users_files_and_gives_probabilities(narrow_c3d: None, tmp_path: Path):
    mean = np.random.rand(1, 3, 16, 128, 171).astype(np.float32) * 255
    c3d = load_c3d(*save_c3d(tmp_path, mean))
    clips = torch.randint(256, (2, 16, 30, 40, 3), dtype=torch.uint8)
    probabilities = c3d(clips)
    assert probabilities.shape == (2, 101)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_c3d_sees_the_centre_in_bgr_without_the_mean(narrow_c3d: None, tmp_path: Path):
    mean = np.zeros((3, 16, 128, 171), dtype=np.float32)
    mean[:, 0, 8, 29] = [1, 2, 3]  # the crop's first pixel: row 8, column 21 + 8
    c3d = load_c3d(*save_c3d(tmp_path, mean))
    clips = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(1, 16, 128, 128, 3)
    seen = c3d.preprocess(clips)
    assert seen.shape == (1, 3, 16, 112, 112)
    assert seen[0, :, 0, 0, 0].tolist() == [29, 18, 7]
    assert seen[0, :, 5, 1, 1].tolist() == [30, 20, 10]
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 16, H, W, 3\)"):
        c3d(clips[:, :8])


def test_c3d_files_that_do_not_fit_are_named(narrow_c3d: None, tmp_path: Path):
    weights, mean = save_c3d(tmp_path, np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(UserError, match=r"mean\.npz: got \(3, 2\)"):
        load_c3d(weights, mean)
    with pytest.raises(UserError, match=r"weights\.npz: got none"):
        load_c3d(weights, weights)
    with pytest.raises(UserError, match=r"nowhere\.npz cannot be read"):
        load_c3d(tmp_path / "nowhere.npz", mean)


def test_the_full_c3d_has_the_published_shapes():
    with torch.device("meta"):
        c3d = C3D()
    assert sum(p.numel() for p in c3d.parameters()) == 78_409_573
