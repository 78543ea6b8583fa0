"""From codes to frames, piece by piece, by a decoder made ready for speed.

A latent frame's pixels depend on the latent frames around it only, as far as the decoder's
kernels reach. So a long clip passes through the decoder as a stream: every layer remembers the
last few frames it was given, nothing is computed twice, and the memory it takes does not grow
with the clip's length.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tats.models.autoencoder import Decoder, ResBlock, Stream
from tats.models.vqgan import VQGAN
from tats.video_io import to_uint8

log = logging.getLogger(__name__)

# Latent cells of a clip decoded at once, and clips decoded together. A processor is fastest where
# a layer's numbers fit its cache; a GPU wants many.
CELLS_PER_PIECE = {"cpu": 256, "cuda": 1024}
CLIPS_TOGETHER = {"cpu": 1, "cuda": 16}


class FrameDecoder:
    """Turns codes into frames as a trained VQGAN does.

    Args:
        vqgan: in eval mode, on the device to work on; it is left as it is.
        dtype: of the decoder's arithmetic; codes are looked up in the codebook's own. None for the
            VQGAN's.
        latents_per_piece: latent frames decoded at once, >= 1; None for what suits the device.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        *,
        dtype: torch.dtype | None = None,
        latents_per_piece: int | None = None,
    ) -> None:
        self.n_codes = vqgan.n_codes
        self.downsample = vqgan.downsample
        self.codebook = vqgan.codebook
        self.post_vq_conv = copy.deepcopy(vqgan.post_vq_conv).eval().requires_grad_(False)
        self.decoder = for_inference(vqgan.decoder)
        self.dtype = dtype or self.post_vq_conv.conv.weight.dtype
        self.post_vq_conv.to(self.dtype)
        self.decoder.to(self.dtype)
        self._latents_per_piece = latents_per_piece
        self.is_local = not any(isinstance(m, nn.GroupNorm) for m in self.decoder.modules())

    @torch.no_grad()
    def __call__(self, codes: Int[Tensor, "B t h w"]) -> UInt8[Tensor, "B T H W 3"]:
        """Decode clips; the frames are on the CPU.

        Raises:
            ValueError: a code is out of range.
        """
        return torch.cat(list(self.pieces(codes)), dim=1)

    def pieces(self, codes: Int[Tensor, "B t h w"]) -> Iterator[UInt8[Tensor, "B n H W 3"]]:
        """Decode clips as their frames are asked for; the frames are on the CPU.

        Raises:
            ValueError: a code is out of range.
        """
        n_latents, rows, columns = codes.shape[1:]
        stream, size = self.stream(n_latents), self.latents_per_piece(rows * columns)
        for start in range(0, n_latents, size):
            last = start + size >= n_latents
            frames = stream.push(codes[:, start : start + size], last=last)
            if frames.shape[1]:
                yield frames

    def stream(self, n_latents: int) -> PixelStream:
        """Begin clips of some latent frames whose codes come piece by piece."""
        return PixelStream(self, n_latents)

    def latents_per_piece(self, cells_per_frame: int) -> int:
        """Latent frames to decode at once, for one clip.

        It depends on nothing but the device, since where pieces end may show in the last bit.
        """
        size = CELLS_PER_PIECE.get(self.device.type, CELLS_PER_PIECE["cuda"])
        return self._latents_per_piece or max(size // cells_per_frame, 1)

    @property
    def device(self) -> torch.device:
        """Where it decodes."""
        return self.codebook.embeddings.device

    @torch.no_grad()
    def video(
        self, codes: Int[Tensor, "B t h w"], stream: Stream | None = None
    ) -> Float[Tensor, "B C T H W"]:
        """Decode codes at once, or the next ones of a stream; not clamped."""
        low, high = (int(bound) for bound in codes.aminmax())
        if low < 0 or high >= self.n_codes:
            raise ValueError(f"codes got values {low}..{high}; expected 0..{self.n_codes - 1}")
        embeddings = self.codebook.lookup(codes)  # (B, D, t, h, w)
        if embeddings.device.type == "cpu":
            embeddings = embeddings.contiguous(memory_format=torch.channels_last_3d)
        return self.decoder(self.post_vq_conv(embeddings.to(self.dtype)), stream)


class PixelStream:
    """Clips that are decoded while their later codes are still to come.

    Args:
        decoder: decodes them.
        n_latents: latent frames of the clips.
    """

    def __init__(self, decoder: FrameDecoder, n_latents: int) -> None:
        self._decoder, self._n_latents = decoder, n_latents
        self._streams: dict[int, Stream] = {}  # by the number of the first clip of a group
        self._waiting: list[Tensor] = []  # codes, where the decoder needs all at once

    def push(self, codes: Int[Tensor, "B t h w"], *, last: bool) -> UInt8[Tensor, "B n H W 3"]:
        """Give the clips' next codes.

        Args:
            codes: t >= 1.
            last: whether the clips end with them.

        Returns:
            The frames that are complete with them, on the CPU; perhaps none.

        Raises:
            ValueError: a code is out of range.
        """
        decoder = self._decoder
        if not decoder.is_local:
            return self._all_at_once(codes, last)
        size = CLIPS_TOGETHER.get(decoder.device.type, CLIPS_TOGETHER["cuda"])
        frames = []
        for start in range(0, len(codes), size):
            stream = self._streams.setdefault(start, Stream())
            stream.last = last
            frames.append(to_uint8(decoder.video(codes[start : start + size], stream)).cpu())
        return torch.cat(frames)

    def _all_at_once(self, codes: Tensor, last: bool) -> Tensor:
        rows, columns = codes.shape[2:]
        if not self._waiting and self._n_latents > self._decoder.latents_per_piece(rows * columns):
            log.warning(
                "the VQGAN's group norm looks at a whole clip: its %d latent frames are decoded at "
                "once, with memory that grows with their number",
                self._n_latents,
            )
        self._waiting.append(codes)
        if last:
            clips = torch.cat(self._waiting, dim=1)
            return torch.cat([to_uint8(self._decoder.video(clip[None])).cpu() for clip in clips])
        _, row_rate, column_rate = self._decoder.downsample
        height, width = rows * row_rate, columns * column_rate
        return torch.empty((len(codes), 0, height, width, 3), dtype=torch.uint8)


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
