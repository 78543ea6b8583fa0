"""The data pipeline against the published code's reference outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tats.data.transforms import preprocess, scaled_size
from tats.video_io import video_grid


@pytest.mark.parametrize("case", range(5))
def test_grid_equals_the_published_layout(goldens: Path, case: int) -> None:
    golden = load_file(goldens / "data" / "video_grid.safetensors")
    clips = (golden[f"case{case}/video"].movedim(1, -1) * 255).to(torch.uint8)
    grid = video_grid(clips, nrow=int(golden[f"case{case}/nrow"]) or None)
    assert torch.equal(torch.from_numpy(grid), golden[f"case{case}/grid"])


@pytest.mark.parametrize("case", range(6))
def test_preprocessed_clip_equals_the_published_one(goldens: Path, case: int) -> None:
    golden = load_file(goldens / "data" / "preprocess.safetensors")
    resolution, every, length = golden[f"rgb{case}/args_res_every_seqlen"].tolist()
    window = golden[f"rgb{case}/video"][: length if length > 0 else None : every]
    clip = preprocess(window, resolution)
    torch.testing.assert_close(clip, golden[f"rgb{case}/out"], rtol=0, atol=1e-6)


def test_every_published_target_size_is_reproduced(goldens: Path) -> None:
    for row in np.load(goldens / "data" / "preprocess_target_sizes.npz")["rows"].tolist():
        height, width, resolution, *target = row
        assert scaled_size(height, width, resolution) == tuple(target), row
