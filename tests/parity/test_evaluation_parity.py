"""I3D and the distances agree with the published code."""

from __future__ import annotations

import pytest
import torch
from seeded_weights import seed_weights

from tats.evaluation import I3D, I3DFeatures, frechet_distance, polynomial_mmd
from tats.evaluation.features import preprocess


@pytest.fixture(scope="module")
def i3d(reference) -> I3D:
    i3d = I3D().eval().requires_grad_(False)
    seed_weights(i3d, int(reference.tensors("fvd/i3d.safetensors")["weights_seed"]))
    return i3d


def test_i3d_has_the_published_names_and_shapes(reference):
    shapes = {name: list(value.shape) for name, value in I3D().state_dict().items()}
    assert shapes == reference.json("fvd/i3d_keys.json")


def test_the_seed_gives_the_reference_weights(reference, i3d):
    state = i3d.state_dict()
    for name, sums in reference.json("fvd/i3d_weight_checksums.json").items():
        weights = state[name].double()
        assert [float(weights.sum()), float(weights.abs().sum())] == pytest.approx(sums)


@pytest.mark.parametrize("length", ["t16", "t24"])
def test_preprocessing_matches(reference, parity, length):
    golden = reference.tensors("fvd/i3d.safetensors")
    video = preprocess(golden[f"{length}/video_uint8"])
    parity.activations(
        "I3D input", video[:, :, ::7, ::31, ::29].contiguous(), golden[f"{length}/pre_slice"]
    )
    mean_and_std = torch.stack([video.mean(), video.std()])
    parity.activations("I3D input", mean_and_std, golden[f"{length}/pre_mean_std"])


@pytest.mark.parametrize("length", ["t16", "t24"])
def test_logits_and_features_match(reference, parity, i3d, length):
    golden = reference.tensors("fvd/i3d.safetensors")
    clips = golden[f"{length}/video_uint8"]
    tolerance = {"rtol": 1e-3, "of_largest": 1e-3}
    logits = I3DFeatures(i3d)(clips)
    parity.close("I3D logits", logits, golden[f"{length}/logits"], **tolerance)
    features = i3d.features(preprocess(clips)).mean(dim=2)
    want = golden[f"{length}/avgpool_features"]
    parity.close("I3D pooled features", features, want, **tolerance)


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_distances_match(reference, parity, case):
    golden = reference.tensors("fvd/distances.safetensors")
    want = reference.json("fvd/distances.json")[case]
    x, y = golden[f"{case}/x"], golden[f"{case}/y"]
    float64 = torch.tensor(want["fd_float64"])
    parity.close("Fréchet distance", frechet_distance(x, y), float64, rtol=1e-6)
    float32 = golden[f"{case}/fd"]
    parity.close("Fréchet distance, float32", frechet_distance(x, y), float32, rtol=1e-3)
    mmd = torch.tensor(want["mmd"])
    parity.close("polynomial MMD", polynomial_mmd(x, y), mmd, rtol=1e-5)
