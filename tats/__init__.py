"""TATS: long video generation with a time-agnostic VQGAN and a time-sensitive transformer.

The public names are imported on first use, so that ``import tats.flags`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tats.data import VideoData
    from tats.evaluation import I3D, I3DFeatures, frechet_distance, load_i3d, polynomial_mmd
    from tats.models.lpips import LPIPS, load_lpips
    from tats.models.transformer import Net2NetTransformer, load_transformer
    from tats.models.vqgan import VQGAN, load_vqgan
    from tats.pipeline import TATS
    from tats.sampling import TokenFilter, Window, fill

__all__ = [
    "I3D",
    "LPIPS",
    "TATS",
    "VQGAN",
    "I3DFeatures",
    "Net2NetTransformer",
    "TokenFilter",
    "VideoData",
    "Window",
    "fill",
    "frechet_distance",
    "load_i3d",
    "load_lpips",
    "load_transformer",
    "load_vqgan",
    "polynomial_mmd",
]

_HOMES = {
    "tats.data": ("VideoData",),
    "tats.evaluation": ("I3D", "I3DFeatures", "frechet_distance", "load_i3d", "polynomial_mmd"),
    "tats.models.lpips": ("LPIPS", "load_lpips"),
    "tats.models.transformer": ("Net2NetTransformer", "load_transformer"),
    "tats.pipeline": ("TATS",),
    "tats.models.vqgan": ("VQGAN", "load_vqgan"),
    "tats.sampling": ("TokenFilter", "Window", "fill"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'tats' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
