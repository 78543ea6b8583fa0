"""Sampling: schedules of windows, the decode engine, and clips written to disk."""

from tats.sampling.draw import TokenFilter
from tats.sampling.fill import decode
from tats.sampling.windows import Window, check_schedule, infill, sliding, spatial, whole

__all__ = [
    "TokenFilter",
    "Window",
    "check_schedule",
    "decode",
    "infill",
    "sliding",
    "spatial",
    "whole",
]
