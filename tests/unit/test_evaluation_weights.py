"""The fetched I3D weights give the figures known of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tats.evaluation import I3DFeatures, frechet_distance, load_i3d
from tats.evaluation.i3d import i3d_source
from tats.weights.catalogue import is_fetched


@pytest.fixture(scope="module")
def i3d() -> nn.Module:
    if not is_fetched("i3d"):
        pytest.skip("I3D's weights are not fetched: python scripts/fetch_weights.py --only i3d")
    return load_i3d()


def test_black_and_white_clips_are_as_far_apart_as_published(i3d: nn.Module):
    clips = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 16, 64, 64, 3)
    black, white = I3DFeatures(i3d)(clips)
    # Sets of equal clips have no covariance. 153.110 is known of the TorchScript weights.
    distance = frechet_distance(black.expand(8, -1), white.expand(8, -1))
    assert distance == pytest.approx(153.110, rel=2e-3)


def test_the_fetched_weights_are_those_the_metric_is_defined_with(i3d: nn.Module):
    source = i3d_source()
    assert source.kind == "tensorflow-exact" and source.sha256.startswith("af5c50f0df57cc48")
