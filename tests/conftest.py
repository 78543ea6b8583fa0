"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of the published code's reference outputs; skips where there is none."""
    folder = Path(os.environ.get("TATS_GOLDENS", REPOSITORY.parent / "shared" / "goldens"))
    if not (folder / "configs.json").is_file():
        pytest.skip(f"no reference outputs in {folder.name}: set TATS_GOLDENS to their folder")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
