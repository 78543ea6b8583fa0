"""From codes to frames, a chunk at a time, by a decoder made ready for speed.

A latent frame's pixels depend on the latent frames around it only, as far as the decoder's
kernels reach. So a long clip is decoded in chunks that overlap by that much, and the memory it
takes does not grow with its length.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tats.models.autoencoder import Decoder, ResBlock, SamePadConv3d, SamePadConvTranspose3d
from tats.models.vqgan import VQGAN
from tats.video_io import to_uint8

log = logging.getLogger(__name__)

CELLS_PER_CHUNK = 16 * 16 * 16  # latent cells decoded at once, besides the overlap
MIN_CHUNK_FRAMES = 8


class FrameDecoder:
    """Turns codes into frames as a trained VQGAN does.

    Args:
        vqgan: in eval mode, on the device to work on; it is left as it is.
        chunk_frames: latent frames decoded at once; None for as many as ``CELLS_PER_CHUNK``
            allows. A decoder with group norm, which looks at a whole clip, ignores it.
    """

    def __init__(self, vqgan: VQGAN, *, chunk_frames: int | None = None) -> None:
        self.n_codes = vqgan.n_codes
        self.downsample = vqgan.downsample
        self.embeddings = vqgan.codebook.embeddings
        self.post_vq_conv = vqgan.post_vq_conv
        self.decoder = for_inference(vqgan.decoder)
        self.chunk_frames = chunk_frames
        self.is_local = not any(isinstance(m, nn.GroupNorm) for m in self.decoder.modules())

    def whole(self, codes: Tensor) -> Tensor:
        """Decode codes (B, t, h, w) at once; video (B, C, T, H, W), not clamped."""
        embeddings = nn.functional.embedding(codes, self.embeddings).movedim(-1, 1)
        if embeddings.device.type == "cpu":
            embeddings = embeddings.contiguous(memory_format=torch.channels_last_3d)
        return self.decoder(self.post_vq_conv(embeddings.to(self._dtype)))

    @property
    def _dtype(self) -> torch.dtype:
        return self.post_vq_conv.conv.weight.dtype

    @torch.no_grad()
    def chunks(self, codes: Tensor) -> Iterator[Tensor]:
        """Decode one clip, as it is asked for.

        Args:
            codes: int64 (t, h, w), each in [0, n_codes).

        Yields:
            uint8 (n, H, W, 3) on the CPU, the clip's next frames.

        Raises:
            ValueError: a code is out of range.

        Source: paper section 3.1; equal to decoding the clip at once up to float32 rounding.
        """
        low, high = (int(bound) for bound in codes.aminmax())
        if low < 0 or high >= self.n_codes:
            raise ValueError(f"codes got values {low}..{high}; expected 0..{self.n_codes - 1}")
        n_frames, rows, columns = codes.shape
        size = self.chunk_frames or max(CELLS_PER_CHUNK // (rows * columns), MIN_CHUNK_FRAMES)
        if n_frames > size and not self.is_local:
            log.warning(
                "the VQGAN's group norm looks at a whole clip: its %d latent frames are decoded at "
                "once, with memory that grows with their number",
                n_frames,
            )
            size = n_frames
        rate = self.downsample[0]
        for start in range(0, n_frames, size):
            stop = min(start + size, n_frames)
            first, last = needed_latents(self.decoder, start * rate, stop * rate)
            first, last = max(first, 0), min(last, n_frames)
            video = self.whole(codes[None, first:last])
            inside = video[:, :, (start - first) * rate : (stop - first) * rate]
            yield to_uint8(inside)[0].cpu()  # (n, H, W, 3)


def needed_latents(decoder: Decoder, start: int, stop: int) -> tuple[int, int]:
    """Say which latent frames some frames of the video depend on.

    Args:
        decoder: its convolutions are followed from the last to the first.
        start: first frame.
        stop: one past the last frame.

    Returns:
        Half-open range of latent frames; it may reach beyond the clip's ends, where borders are
        replicated.
    """
    first, last = start, stop - 1
    kinds = (SamePadConv3d, SamePadConvTranspose3d)
    for layer in reversed([m for m in decoder.modules() if isinstance(m, kinds)]):
        front = layer.padding[-2]  # of the time axis, which F.pad lists last
        if isinstance(layer, SamePadConv3d):
            (kernel, *_), (stride, *_) = layer.conv.kernel_size, layer.conv.stride
            first, last = first * stride - front, last * stride - front + kernel - 1
        else:
            (kernel, *_), (stride, *_) = layer.convt.kernel_size, layer.convt.stride
            # Padded input p reaches outputs p·stride - (kernel - 1) ... p·stride.
            first = math.ceil(first / stride) - front
            last = (last + kernel - 1) // stride - front
    return first, last + 1


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
