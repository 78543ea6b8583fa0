"""Sampling: schedules of windows, the loop that carries them out, and clips written to disk."""

from tats.sampling.draw import TokenFilter
from tats.sampling.fill import fill, filled_windows
from tats.sampling.windows import Window, check_schedule, infill, sliding, spatial, whole

__all__ = [
    "TokenFilter",
    "Window",
    "check_schedule",
    "fill",
    "filled_windows",
    "infill",
    "sliding",
    "spatial",
    "whole",
]
