"""C3D classifying the 101 actions of UCF-101: what the Inception Score of videos is defined with.

Its weights are a user's own file, in the layout in common use: ``conv3d_deepnetA_ucf.npz`` with
arrays ``conv1a/W``, ``conv1a/b`` … ``fc8/b``, and ``mean2.npz`` with the mean clip in ``mean``.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tats.errors import UserError
from tats.weights.checkpoint import load_weights
from tats.weights.files import read_weights

N_ACTIONS = 101
N_FRAMES = 16
CROP_SIZE = 112  # pixels
RESIZED = 128  # pixels, before the centre crop
_MEAN_SHAPE = (3, N_FRAMES, 128, 171)  # BGR, T, H, W
_MEAN_LEFT, _CROP_START = 21, 8
_CHANNELS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
_POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")  # layers with a pool behind them
_WIDTHS = {"fc6": (512 * 4 * 4, 4096), "fc7": (4096, 4096), "fc8": (4096, N_ACTIONS)}


class C3D(nn.Module):
    """Eight 3D convolutions and three fully connected layers."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, (in_channels, out_channels) in _CHANNELS.items():
            self.add_module(name, nn.Conv3d(in_channels, out_channels, 3, padding=1))
        for name, (in_features, out_features) in _WIDTHS.items():
            self.add_module(name, nn.Linear(in_features, out_features))
        self.register_buffer("mean", torch.zeros(_MEAN_SHAPE))

    def forward(self, clips: UInt8[Tensor, "B 16 H W 3"]) -> Float[Tensor, "B 101"]:
        """Classify clips.

        Args:
            clips: RGB, of any H and W.

        Returns:
            Probabilities.

        Raises:
            ValueError: another shape or type.

        Source: Tran et al. 2015; Saito et al. 2017 for its use as Inception Score.
        """
        x = self.preprocess(clips)  # (B, 3, 16, 112, 112)
        for name in _CHANNELS:
            x = self.get_submodule(name)(x).relu_()
            if name in _POOLED:
                kernel = (1, 2, 2) if name == "conv1a" else (2, 2, 2)
                x = F.max_pool3d(x, kernel, ceil_mode=True)
        x = self.get_submodule("fc6")(x.flatten(1)).relu_()
        x = self.get_submodule("fc7")(x).relu_()
        return self.get_submodule("fc8")(x).softmax(dim=1)  # (B, 101)

    def preprocess(self, clips: UInt8[Tensor, "B 16 H W 3"]) -> Float[Tensor, "B 3 16 112 112"]:
        """Resize to 128² (bicubic), subtract the mean clip, crop the centre, swap to BGR.

        Args:
            clips: RGB, of any H and W.
        """
        if clips.dtype != torch.uint8 or clips.shape[1:2] + clips.shape[4:] != (N_FRAMES, 3):
            raise ValueError(
                f"C3D: got {clips.dtype} {tuple(clips.shape)}; expected uint8 (B, {N_FRAMES}, H, "
                "W, 3)"
            )
        frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B*16, 3, H, W)
        size = (RESIZED, RESIZED)
        frames = F.interpolate(frames, size, mode="bicubic", align_corners=False)
        video = frames.unflatten(0, (-1, N_FRAMES)).transpose(1, 2).flip(1)  # (B, BGR, 16, H, W)
        video = video - self.mean[..., _MEAN_LEFT : _MEAN_LEFT + RESIZED]
        inside = slice(_CROP_START, _CROP_START + CROP_SIZE)
        return video[..., inside, inside]


def load_c3d(weights_path: str | Path, mean_path: str | Path) -> C3D:
    """Build C3D from a user's files; none are distributed with this project.

    Args:
        weights_path: ``conv3d_deepnetA_ucf.npz``, or a torch or safetensors file whose names are
            ``conv1a.weight`` and so on.
        mean_path: ``mean2.npz``: one array ``mean`` of 3×16×128×171 values, BGR, in [0, 255].

    Returns:
        The network in eval mode on the CPU, without gradients.

    Raises:
        UserError: a file is absent, broken, or another network's.
    """
    state = {_torch_name(name): value for name, value in read_weights(weights_path).items()}
    mean = read_weights(mean_path).get("mean")
    if mean is None or mean.numel() != math.prod(_MEAN_SHAPE):
        got = "none" if mean is None else str(tuple(mean.shape))
        raise UserError(f"{mean_path}: got {got} as array 'mean'; expected 3×16×128×171 values")
    with torch.device("meta"):
        c3d = C3D()
    load_weights(c3d, state | {"mean": mean.view(_MEAN_SHAPE)}, source=str(weights_path))
    return c3d.eval().requires_grad_(False)


def _torch_name(name: str) -> str:
    layer, separator, kind = name.partition("/")
    return f"{layer}.{ {'W': 'weight', 'b': 'bias'}.get(kind, kind) }" if separator else name
