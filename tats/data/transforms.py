"""From decoded frames to the tensor a model sees: resize, centre crop, shift to [-0.5, 0.5]."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def preprocess(frames: Tensor | np.ndarray, resolution: int) -> Tensor:
    """Make a square model clip of colour frames.

    Args:
        frames: uint8 (T, H, W, C), any size.
        resolution: side of the result in pixels.

    Returns:
        float32 (C, T, resolution, resolution) in [-0.5, 0.5].

    Source: docs/DATASETS.md, "What a clip is".
    """
    video = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255  # (T, C, H, W)
    height, width = video.shape[-2:]
    size = scaled_size(height, width, resolution)
    if size != (height, width):
        video = F.interpolate(video, size=size, mode="bilinear", align_corners=False)
    video = centre_crop(video, resolution)
    return video.transpose(0, 1).contiguous() - 0.5  # (C, T, resolution, resolution)


def scaled_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Size (height, width) at which the shorter side is ``resolution``, the other rounded up."""
    scale = resolution / min(height, width)
    if height < width:
        return resolution, math.ceil(width * scale)
    return math.ceil(height * scale), resolution


def centre_crop(video: Tensor, resolution: int) -> Tensor:
    """Cut the central square of ``resolution`` pixels out of the last two axes."""
    height, width = video.shape[-2:]
    top, left = (height - resolution) // 2, (width - resolution) // 2
    return video[..., top : top + resolution, left : left + resolution]
