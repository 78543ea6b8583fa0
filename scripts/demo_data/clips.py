"""What every maker of demo data gives: clips that are made when their turn comes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tats.video_io import Sound

SPLITS = ("train", "test")


class Recording(NamedTuple):
    """A clip that has been made: uint8 (T, H, W, 3), with sound and a frame rate if it has them."""

    frames: np.ndarray
    sound: Sound | None = None
    fps: float | None = None


class Clip(NamedTuple):
    """A clip to be made: its place in the data set, and how to get it."""

    split: str
    class_name: str
    number: int
    make: Callable[[], Recording]

    @property
    def name(self) -> str:
        return f"{self.class_name}_{self.number:04d}"


def clips_per_split(args: argparse.Namespace) -> tuple[int, int]:
    """Give the number of clips of a class in the training and the test split."""
    return args.clips_per_class, args.test_clips_per_class
