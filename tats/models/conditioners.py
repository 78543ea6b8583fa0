"""What a video is generated from, as tokens: nothing, a class label, a text, or sound.

Condition tokens come first in the GPT's vocabulary, un-offset; video tokens follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tats.models.vqgan import VQGAN

TEXT_VOCABULARY = 49408


class Conditioner(Protocol):
    """Turns one kind of condition into tokens.

    Attributes:
        batch_key: entry of a batch that holds the condition; None where there is none.
        vocab_size: number of condition tokens, 0 where they share the video's.
        n_tokens: condition tokens of one sample (L).
    """

    @property
    def batch_key(self) -> str | None: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    def encode(self, condition: Shaped[Tensor, "B ..."]) -> Int[Tensor, "B L"]:
        """Turn a batch's condition into tokens."""
        ...


@dataclass(frozen=True)
class Unconditional:
    """A single start token; it needs no vocabulary of its own."""

    sos_token: int = 0
    batch_key: None = field(default=None, init=False)
    vocab_size: int = field(default=0, init=False)
    n_tokens: int = field(default=1, init=False)

    def encode(self, condition: Shaped[Tensor, "B ..."]) -> Int[Tensor, "B 1"]:
        """Give one start token per entry of ``condition``, whatever that holds."""
        shape = (len(condition), 1)
        return torch.full(shape, self.sos_token, dtype=torch.int64, device=condition.device)


@dataclass(frozen=True)
class ClassLabel:
    """A class index."""

    vocab_size: int
    batch_key: str = field(default="label", init=False)
    n_tokens: int = field(default=1, init=False)

    def encode(self, condition: Shaped[Tensor, "B ..."]) -> Int[Tensor, "B 1"]:
        """Take labels (B,) or (B, 1) as tokens."""
        return condition.long().view(len(condition), 1)


@dataclass(frozen=True)
class Text:
    """BPE tokens of a caption, padded with 0."""

    n_tokens: int
    batch_key: str = field(default="text", init=False)
    vocab_size: int = field(default=TEXT_VOCABULARY, init=False)

    def encode(self, condition: Shaped[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Take caption tokens as they are."""
        return condition.long()


@dataclass(frozen=True)
class Sound:
    """Codes that a frozen STFT-VQGAN gives a spectrogram."""

    vqgan: VQGAN
    batch_key: str = field(default="stft", init=False)

    @property
    def vocab_size(self) -> int:
        """Number of codes of the STFT-VQGAN."""
        return self.vqgan.n_codes

    @property
    def n_tokens(self) -> int:
        """Codes of one spectrogram clip as long as the STFT-VQGAN's training clips."""
        return math.prod(self.vqgan.latent_shape)

    @torch.no_grad()
    def encode(self, condition: Float[Tensor, "B 1 T 64 16"]) -> Int[Tensor, "B L"]:
        """Encode spectrograms in [-1, 1]."""
        return rearrange(self.vqgan.encode(condition), "b t h w -> b (t h w)")
