"""The data pipeline against the published code's reference outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tats.video_io import video_grid


@pytest.mark.parametrize("case", range(5))
def test_grid_equals_the_published_layout(goldens: Path, case: int) -> None:
    golden = load_file(goldens / "data" / "video_grid.safetensors")
    clips = (golden[f"case{case}/video"].movedim(1, -1) * 255).to(torch.uint8)
    grid = video_grid(clips, nrow=int(golden[f"case{case}/nrow"]) or None)
    assert torch.equal(torch.from_numpy(grid), golden[f"case{case}/grid"])
