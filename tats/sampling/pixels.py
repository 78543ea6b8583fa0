"""From codes to frames, a few at a time, by a decoder made ready for speed.

A latent frame's pixels depend on the latent frames around it only, as far as the decoder's
kernels reach. So a long clip passes through the decoder as a stream: every layer remembers the
last few frames it was given, nothing is computed twice, and the memory it takes does not grow
with the clip's length.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tats.models.autoencoder import (
    Decoder,
    DecoderStage,
    ResBlock,
    SamePadConv3d,
    SamePadConvTranspose3d,
)
from tats.models.vqgan import VQGAN
from tats.video_io import to_uint8

log = logging.getLogger(__name__)

CELLS_PER_CHUNK = 256  # latent cells decoded at once


class FrameDecoder:
    """Turns codes into frames as a trained VQGAN does.

    Args:
        vqgan: in eval mode, on the device to work on; it is left as it is.
        chunk_frames: latent frames decoded at once, >= 1; None for as many as
            ``CELLS_PER_CHUNK`` allows. A decoder with group norm, which looks at a whole clip,
            ignores it.
    """

    def __init__(self, vqgan: VQGAN, *, chunk_frames: int | None = None) -> None:
        self.n_codes = vqgan.n_codes
        self.downsample = vqgan.downsample
        self.embeddings = vqgan.codebook.embeddings
        self.post_vq_conv = vqgan.post_vq_conv
        self.decoder = for_inference(vqgan.decoder)
        self.chunk_frames = chunk_frames
        self.is_local = not any(isinstance(m, nn.GroupNorm) for m in self.decoder.modules())

    @torch.no_grad()
    def whole(self, codes: Tensor) -> Tensor:
        """Decode codes (B, t, h, w) at once; video (B, C, T, H, W), not clamped."""
        return self.decoder(self._features(codes))

    def _features(self, codes: Tensor) -> Tensor:
        embeddings = F.embedding(codes, self.embeddings).movedim(-1, 1)  # (B, D, t, h, w)
        if embeddings.device.type == "cpu":
            embeddings = embeddings.contiguous(memory_format=torch.channels_last_3d)
        return self.post_vq_conv(embeddings.to(self.post_vq_conv.conv.weight.dtype))

    @torch.no_grad()
    def chunks(self, codes: Tensor) -> Iterator[Tensor]:
        """Decode one clip, as it is asked for.

        Args:
            codes: int64 (t, h, w), each in [0, n_codes).

        Yields:
            uint8 (n, H, W, 3) on the CPU, the clip's next frames.

        Raises:
            ValueError: a code is out of range.

        Source: paper section 3.1; equal to decoding the clip at once up to rounding.
        """
        low, high = (int(bound) for bound in codes.aminmax())
        if low < 0 or high >= self.n_codes:
            raise ValueError(f"codes got values {low}..{high}; expected 0..{self.n_codes - 1}")
        n_frames, rows, columns = codes.shape
        size = self.chunk_frames or max(CELLS_PER_CHUNK // (rows * columns), 1)
        if n_frames > size and not self.is_local:
            log.warning(
                "the VQGAN's group norm looks at a whole clip: its %d latent frames are decoded at "
                "once, with memory that grows with their number",
                n_frames,
            )
        if n_frames <= size or not self.is_local:
            yield to_uint8(self.whole(codes[None]))[0].cpu()
            return
        stream = DecoderStream(self.decoder)
        for start in range(0, n_frames, size):
            features = self._features(codes[None, start : start + size])
            video = stream.push(features, last=start + size >= n_frames)
            if video.shape[2]:
                yield to_uint8(video)[0].cpu()  # (n, H, W, 3)


class DecoderStream:
    """Passes one clip through a decoder piece by piece; together equal to decoding it at once.

    Args:
        decoder: without group norm.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        layers = [m for m in decoder.modules() if isinstance(m, SamePadConv3d)]
        self._convs = {layer: _ConvStream(layer) for layer in layers}
        stages: list[DecoderStage] = list(decoder.conv_blocks)  # type: ignore[arg-type]
        self._ups = {stage: _TransposedStream(stage.up) for stage in stages}
        self._shortcuts = {b: _Queue() for stage in stages for b in (stage.res1, stage.res2)}

    def push(self, features: Tensor, *, last: bool) -> Tensor:
        """Give the next features (B, in_channels, t, h, w); the frames they complete.

        Args:
            features: t >= 1.
            last: whether the clip ends with them.

        Returns:
            Video (B, C, n, H, W); n may be 0 until the clip's end is reached.
        """
        h = self.decoder.final_block(features)
        for stage, up in self._ups.items():
            h = up.push(h, last)
            h = self._residual(stage.res1, h, last)
            h = self._residual(stage.res2, h, last)
        return self._convs[self.decoder.conv_last].push(h, last)

    def _residual(self, block: ResBlock, x: Tensor, last: bool) -> Tensor:
        h = self._convs[block.conv1].push(F.silu(block.norm1(x)), last)
        h = self._convs[block.conv2].push(F.silu(block.norm2(h)), last)
        shortcut = self._shortcuts[block]
        shortcut.put(x)
        return shortcut.take(h.shape[2]) + h


class _Queue:
    """Frames (B, C, n, H, W) that wait to be taken."""

    def __init__(self) -> None:
        self.frames: Tensor | None = None

    def put(self, frames: Tensor) -> None:
        self.frames = frames if self.frames is None else torch.cat([self.frames, frames], dim=2)

    def take(self, n: int) -> Tensor:
        assert self.frames is not None
        taken, self.frames = self.frames[:, :, :n], self.frames[:, :, n:].clone()
        return taken


class _PaddedTime:
    """A layer's input in time: borders replicated at the clip's ends, earlier frames in between."""

    def __init__(self, padding: list[int], n_kept: int) -> None:
        self.front, self.back = padding[-2:]  # F.pad lists the time axis last
        self.n_kept = n_kept
        self._kept: Tensor | None = None

    def push(self, x: Tensor, last: bool) -> Tensor:
        """The kept frames, then the new ones, then the end's border."""
        if self._kept is None:
            if x.shape[2] == 0:  # the clip's first frame has yet to come
                return x
            self._kept = x[:, :, :1].repeat(1, 1, self.front, 1, 1)
        x = torch.cat([self._kept, x], dim=2)
        if last:
            x = torch.cat([x, x[:, :, -1:].repeat(1, 1, self.back, 1, 1)], dim=2)
        self._kept = x[:, :, max(x.shape[2] - self.n_kept, 0) :].clone()
        return x


class _ConvStream:
    """A convolution of stride 1 over a stream."""

    def __init__(self, layer: SamePadConv3d) -> None:
        self.layer = layer
        self.kernel = layer.conv.kernel_size[0]
        self.time = _PaddedTime(layer.padding, self.kernel - 1)

    def push(self, x: Tensor, last: bool) -> Tensor:
        x = self.time.push(x, last)
        if x.shape[2] < self.kernel:
            return _no_frames(x, self.layer.conv.out_channels, x.shape[3:])
        return self.layer.conv(F.pad(x, [*self.layer.padding[:4], 0, 0], mode="replicate"))


class _TransposedStream:
    """A transposed convolution over a stream.

    Input p reaches the uncropped outputs stride · p … stride · p + kernel - 1, so those before
    stride · p are complete when it comes. kernel - 1 outputs are cropped at both of the clip's
    ends.
    """

    def __init__(self, layer: SamePadConvTranspose3d) -> None:
        self.layer = layer
        self.kernel, self.stride = layer.convt.kernel_size[0], layer.convt.stride[0]
        self.time = _PaddedTime(layer.padding, -(-(self.kernel - 1) // self.stride))
        self._n_given: int = 0  # inputs so far, the border's included

    def push(self, x: Tensor, last: bool) -> Tensor:
        convt = self.layer.convt
        x = self.time.push(x, last)
        n_old = min(self._n_given, self.time.n_kept)
        n_new = x.shape[2] - n_old
        if n_new == 0:
            size = [n * s for n, s in zip(x.shape[3:], convt.stride[1:], strict=True)]
            return _no_frames(x, convt.out_channels, size)
        x = F.pad(x, [*self.layer.padding[:4], 0, 0], mode="replicate")
        padding = (0, *convt.padding[1:])
        full = F.conv_transpose3d(x, convt.weight, convt.bias, convt.stride, padding)
        # Uncropped outputs of the clip, counted from the first one of x's.
        origin = (self._n_given - n_old) * self.stride
        start = max(self._n_given * self.stride, self.kernel - 1) - origin
        self._n_given += n_new
        stop = self._n_given * self.stride - origin
        if last:
            stop += 1 - self.stride
        return full[:, :, start : max(start, stop)]


def _no_frames(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    return like.new_empty(like.shape[0], channels, 0, *size)


def for_inference(decoder: Decoder) -> Decoder:
    """Copy a decoder into the form that runs fastest.

    A batch norm right behind a convolution becomes part of it. On a CPU, weights are laid out
    channels last, as its 3D convolutions like them.

    Args:
        decoder: in eval mode.

    Returns:
        A decoder of its own, equal up to rounding.
    """
    decoder = copy.deepcopy(decoder).eval().requires_grad_(False)
    for block in [m for m in decoder.modules() if isinstance(m, ResBlock)]:
        if isinstance(block.norm2, nn.BatchNorm3d | nn.SyncBatchNorm):
            block.conv1.conv = nn.utils.fuse_conv_bn_eval(block.conv1.conv, block.norm2)
            block.norm2 = nn.Identity()
    if next(decoder.parameters()).device.type == "cpu":
        decoder = decoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return decoder
