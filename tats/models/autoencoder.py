"""The time-agnostic convolutional encoder and decoder of the 3D VQGAN.

Every convolution pads with replicated border values instead of zeros, so that a latent frame
does not know where in the clip it stands: a VQGAN trained on 16 frames encodes and decodes any
number of them (paper §3.1). Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

NormType = Literal["group", "batch"]
PaddingType = Literal["replicate", "constant", "reflect", "circular"]
Size3 = tuple[int, int, int]

NORM_TYPES: tuple[str, ...] = get_args(NormType)
PADDING_TYPES: tuple[str, ...] = get_args(PaddingType)
NORM_GROUPS = 32


def same_padding(kernel: Size3, stride: Size3) -> list[int]:
    """Padding that makes a strided convolution's output exactly input / stride long.

    Args:
        kernel: kernel size in time, height, width.
        stride: stride in time, height, width.

    Returns:
        ``F.pad``'s list: (before, after) per axis, last axis first. The total is
        kernel - stride and its larger half goes in front.
    """
    padding: list[int] = []
    for size, step in zip(reversed(kernel), reversed(stride), strict=True):
        total = size - step
        padding += [total // 2 + total % 2, total // 2]
    return padding


class SamePadConv3d(nn.Module):
    """3D convolution whose output is its input's size divided by the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: Size3 = (1, 1, 1),
        padding_type: str = "replicate",
    ) -> None:
        super().__init__()
        self.padding = same_padding((kernel,) * 3, stride)
        self.padding_type = padding_type
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding, mode=self.padding_type)
        return self.conv(x)


class SamePadConvTranspose3d(nn.Module):
    """3D transposed convolution whose output is its input's size times the stride."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: Size3) -> None:
        super().__init__()
        self.padding = same_padding((kernel,) * 3, stride)
        self.convt = nn.ConvTranspose3d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel - 1
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convt(F.pad(x, self.padding, mode="replicate"))


def make_norm(norm_type: str, channels: int) -> nn.Module:
    """Build one normalisation layer over ``channels`` channels.

    Batch norm is built unsynchronised, because synchronised batch norm cannot train on a CPU;
    ``--sync_batchnorm`` converts it on GPUs under the same state-dict names.
    """
    if norm_type == "batch":
        return nn.BatchNorm3d(channels)
    if norm_type == "group":
        return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)
    raise ValueError(f"norm_type got {norm_type!r}; expected one of {NORM_TYPES}")


class ResBlock(nn.Module):
    """Two normalised 3³ convolutions added to their input."""

    def __init__(self, channels: int, *, norm_type: str) -> None:
        super().__init__()
        self.norm1 = make_norm(norm_type, channels)
        self.conv1 = SamePadConv3d(channels, channels, kernel=3)
        self.norm2 = make_norm(norm_type, channels)
        self.conv2 = SamePadConv3d(channels, channels, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


def stage_strides(downsample: Size3) -> list[Size3]:
    """Spread each axis' halvings over the encoder's stages, earliest stages first.

    Args:
        downsample: total factor per axis (time, height, width), each a power of two.

    Returns:
        One stride triple per stage, as many stages as the deepest axis has halvings.
    """
    halvings = [factor.bit_length() - 1 for factor in downsample]
    n_stages = max(halvings)
    assert all(1 << n == factor for n, factor in zip(halvings, downsample, strict=True))
    strides = [tuple(2 if stage < n else 1 for n in halvings) for stage in range(n_stages)]
    return strides  # type: ignore[return-value]


class EncoderStage(nn.Module):
    """Halve the axes that still have halvings left, double the channels, refine."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: Size3,
        norm_type: str,
        padding_type: str,
    ) -> None:
        super().__init__()
        self.down = SamePadConv3d(
            in_channels, out_channels, kernel=4, stride=stride, padding_type=padding_type
        )
        self.res = ResBlock(out_channels, norm_type=norm_type)

    def forward(self, x: Tensor) -> Tensor:
        return self.res(self.down(x))


class Encoder(nn.Module):
    """Turn a clip into a grid of features.

    Args:
        n_hiddens: channels after the first convolution; stage i doubles them.
        downsample: factor per axis (time, height, width), powers of two.
        image_channels: colour channels of the clip.
        norm_type: "group" or "batch".
        padding_type: border mode of ``conv_first`` and the strided convolutions; all others
            replicate.

    Source: paper §3.1.
    """

    def __init__(
        self,
        *,
        n_hiddens: int,
        downsample: Size3,
        image_channels: int = 3,
        norm_type: str = "group",
        padding_type: str = "replicate",
    ) -> None:
        super().__init__()
        strides = stage_strides(downsample)
        # In this order, which is not that of use, lie the moments of released optimiser states.
        self.conv_blocks = nn.ModuleList(
            EncoderStage(
                n_hiddens << i,
                n_hiddens << (i + 1),
                stride=stride,
                norm_type=norm_type,
                padding_type=padding_type,
            )
            for i, stride in enumerate(strides)
        )
        self.conv_first = SamePadConv3d(
            image_channels, n_hiddens, kernel=3, padding_type=padding_type
        )
        self.out_channels = n_hiddens << len(strides)
        self.final_block = nn.Sequential(make_norm(norm_type, self.out_channels), nn.SiLU())

    def forward(self, video: Tensor) -> Tensor:
        """Encode a clip (B, C, T, H, W) into features (B, out_channels, t, h, w)."""
        h = self.conv_first(video)
        for stage in self.conv_blocks:
            h = stage(h)
        return self.final_block(h)


class DecoderStage(nn.Module):
    """Double the axes that still have doublings left, then refine twice."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: Size3, norm_type: str
    ) -> None:
        super().__init__()
        self.up = SamePadConvTranspose3d(in_channels, out_channels, kernel=4, stride=stride)
        self.res1 = ResBlock(out_channels, norm_type=norm_type)
        self.res2 = ResBlock(out_channels, norm_type=norm_type)

    def forward(self, x: Tensor) -> Tensor:
        return self.res2(self.res1(self.up(x)))


class Decoder(nn.Module):
    """Turn a grid of features into a clip; the encoder's mirror image.

    Args:
        n_hiddens: the encoder's ``n_hiddens``.
        upsample: the encoder's ``downsample``.
        image_channels: colour channels of the clip.
        norm_type: "group" or "batch".

    Source: paper §3.1.
    """

    def __init__(
        self,
        *,
        n_hiddens: int,
        upsample: Size3,
        image_channels: int = 3,
        norm_type: str = "group",
    ) -> None:
        super().__init__()
        strides = stage_strides(upsample)
        n_stages = len(strides)
        # The first stage keeps the channel count, each later one halves it.
        widths = [n_hiddens << n_stages] + [n_hiddens << (n_stages - i) for i in range(n_stages)]
        self.in_channels = widths[0]
        self.final_block = nn.Sequential(make_norm(norm_type, widths[0]), nn.SiLU())
        self.conv_blocks = nn.ModuleList(
            DecoderStage(widths[i], widths[i + 1], stride=stride, norm_type=norm_type)
            for i, stride in enumerate(strides)
        )
        self.conv_last = SamePadConv3d(widths[-1], image_channels, kernel=3)

    def forward(self, features: Tensor) -> Tensor:
        """Decode features (B, in_channels, t, h, w) into a clip (B, C, T, H, W)."""
        h = self.final_block(features)
        for stage in self.conv_blocks:
            h = stage(h)
        return self.conv_last(h)
