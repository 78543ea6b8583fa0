"""The time-agnostic convolutional encoder and decoder of the 3D VQGAN.

Every convolution pads with replicated border values instead of zeros, so that a latent frame
does not know where in the clip it stands: a VQGAN trained on 16 frames encodes and decodes any
number of them (Ge et al. §3.1). Parameter names are those of the released checkpoints.

A decoder works in two modes. ``decoder(features)`` takes a clip at once; with a ``Stream`` it takes
the clip piece by piece: each layer then leaves in the stream the few frames that its kernel still
needs, so nothing is computed twice and memory does not grow with the clip.
"""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tats.flags import Norm, Padding

Size3 = tuple[int, int, int]

NORM_TYPES: tuple[str, ...] = get_args(Norm)
PADDING_TYPES: tuple[str, ...] = get_args(Padding)
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


class Stream:
    """What the layers of a decoder remember of a clip that comes piece by piece.

    Set ``last`` before the piece that ends the clip. Layers that look at a whole clip (group norm)
    cannot work on a stream.
    """

    def __init__(self) -> None:
        self.last = False
        self._kept: dict[nn.Module, Tensor] = {}
        self._n_given: dict[nn.Module, int] = {}  # frames so far, the border's included

    def padded(
        self,
        layer: nn.Module,
        x: Float[Tensor, "B C t H W"],
        borders: tuple[int, int],
        n_kept: int,
    ) -> tuple[Float[Tensor, "B C n H W"], int]:
        """Put before a layer's new frames those it still needs, and borders at the clip's ends.

        Args:
            layer: asks.
            x: new frames, perhaps none.
            borders: frames to replicate before the clip and after it.
            n_kept: frames to remember for the next piece.

        Returns:
            The frames, and the number of the first of them, counted from the border's first.
        """
        before, after = borders
        kept = self._kept.get(layer)
        if kept is None:
            if x.shape[2] == 0:  # the clip's first frame has yet to come
                return x, 0
            kept = x[:, :, :1].repeat(1, 1, before, 1, 1)
        x = torch.cat([kept, x], dim=2)
        if self.last:
            x = torch.cat([x, x[:, :, -1:].repeat(1, 1, after, 1, 1)], dim=2)
        first = max(self.n_given(layer) - n_kept, 0)
        self._kept[layer] = x[:, :, max(x.shape[2] - n_kept, 0) :].clone()
        self._n_given[layer] = first + x.shape[2]
        return x, first

    def n_given(self, layer: nn.Module) -> int:
        """How many frames a layer has been given, borders included."""
        return self._n_given.get(layer, 0)

    def delayed(
        self, layer: nn.Module, x: Float[Tensor, "B C t H W"], n: int
    ) -> Float[Tensor, "B C n H W"]:
        """Queue a layer's new frames; the ``n`` that have waited longest."""
        if layer in self._kept:
            x = torch.cat([self._kept[layer], x], dim=2)
        self._kept[layer] = x[:, :, n:].clone()
        return x[:, :, :n]

    @property
    def n_bytes(self) -> int:
        """Memory of what is remembered."""
        return sum(kept.untyped_storage().nbytes() for kept in self._kept.values())


def _no_frames(like: Tensor, channels: int, size: tuple[int, ...]) -> Tensor:
    return like.new_empty(like.shape[0], channels, 0, *size)


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

    def forward(
        self, x: Float[Tensor, "B C T H W"], stream: Stream | None = None
    ) -> Float[Tensor, "B D t h w"]:
        """Convolve; on a ``stream`` (stride 1), the frames that are complete so far."""
        padding = self.padding
        if stream is not None:
            kernel = self.conv.kernel_size[0]
            x, _ = stream.padded(self, x, (padding[-2], padding[-1]), n_kept=kernel - 1)
            if x.shape[2] < kernel:
                return _no_frames(x, self.conv.out_channels, x.shape[3:])
            padding = [*padding[:4], 0, 0]
        if any(padding):
            x = F.pad(x, padding, mode=self.padding_type)
        return self.conv(x)


class SamePadConvTranspose3d(nn.Module):
    """3D transposed convolution whose output is its input's size times the stride."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: Size3) -> None:
        super().__init__()
        self.padding = same_padding((kernel,) * 3, stride)
        self.convt = nn.ConvTranspose3d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel - 1
        )

    def forward(
        self, x: Float[Tensor, "B C t h w"], stream: Stream | None = None
    ) -> Float[Tensor, "B D T H W"]:
        """Convolve; on a ``stream``, the frames that are complete so far."""
        if stream is not None:
            return self._next_frames(x, stream)
        return self.convt(F.pad(x, self.padding, mode="replicate"))

    def _next_frames(self, x: Tensor, stream: Stream) -> Tensor:
        """Input p reaches the uncropped outputs stride · p … stride · p + kernel - 1, so those
        before stride · p are complete when it comes; kernel - 1 are cropped at both of the clip's
        ends."""
        convt, padding = self.convt, self.padding
        kernel, stride = convt.kernel_size[0], convt.stride[0]
        n_old = stream.n_given(self)
        x, first = stream.padded(
            self, x, (padding[-2], padding[-1]), n_kept=-(-(kernel - 1) // stride)
        )
        n_given = stream.n_given(self)
        if n_given == n_old:
            size = tuple(n * s for n, s in zip(x.shape[3:], convt.stride[1:], strict=True))
            return _no_frames(x, convt.out_channels, size)
        x = F.pad(x, [*padding[:4], 0, 0], mode="replicate")
        full = F.conv_transpose3d(
            x, convt.weight, convt.bias, convt.stride, (0, *convt.padding[1:])
        )
        start = max(n_old * stride, kernel - 1)
        stop = n_given * stride + (1 - stride if stream.last else 0)
        return full[:, :, start - first * stride : max(start, stop) - first * stride]


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

    def forward(
        self, x: Float[Tensor, "B C T H W"], stream: Stream | None = None
    ) -> Float[Tensor, "B C T H W"]:
        h = self.conv1(F.silu(self.norm1(x)), stream)
        h = self.conv2(F.silu(self.norm2(h)), stream)
        return h + (x if stream is None else stream.delayed(self, x, h.shape[2]))


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

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D t h w"]:
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

    Source: Ge et al. §3.1.
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

    def forward(self, video: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D t h w"]:
        """Encode a clip into features of ``out_channels`` channels."""
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

    def forward(
        self, x: Float[Tensor, "B C t h w"], stream: Stream | None = None
    ) -> Float[Tensor, "B D T H W"]:
        return self.res2(self.res1(self.up(x, stream), stream), stream)


class Decoder(nn.Module):
    """Turn a grid of features into a clip; the encoder's mirror image.

    Args:
        n_hiddens: the encoder's ``n_hiddens``.
        upsample: the encoder's ``downsample``.
        image_channels: colour channels of the clip.
        norm_type: "group" or "batch".

    Source: Ge et al. §3.1.
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

    def forward(
        self, features: Float[Tensor, "B D t h w"], stream: Stream | None = None
    ) -> Float[Tensor, "B C T H W"]:
        """Decode features of ``in_channels`` channels into a clip.

        Args:
            features: of the whole clip; or, with a stream, of its next latent frames.
            stream: what came before; None for a clip at once.

        Returns:
            The clip; or, of a stream, its next frames that are complete, perhaps none.
        """
        h = self.final_block(features)
        for stage in self.conv_blocks:
            h = stage(h, stream)
        return self.conv_last(h, stream)
