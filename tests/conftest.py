"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of the published code's reference outputs; skips where none is named."""
    named = os.environ.get("TATS_GOLDENS")
    if not named:
        pytest.skip("no reference outputs: set TATS_GOLDENS to their folder")
    folder = Path(named)
    if not (folder / "configs.json").is_file():
        pytest.fail(f"TATS_GOLDENS got {named}; expected the folder of the reference outputs")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
