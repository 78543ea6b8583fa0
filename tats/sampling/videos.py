"""From numbered samples to clips: condition, canvas, codes, frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tats.errors import UserError
from tats.flags import Interpolation
from tats.models.gpt import GPT
from tats.models.transformer import Net2NetTransformer
from tats.sampling.draw import TokenFilter
from tats.sampling.fill import filled_windows
from tats.sampling.pixels import FrameDecoder
from tats.sampling.windows import Window, check_schedule


@dataclass(frozen=True)
class Level:
    """One transformer's share of a canvas.

    Args:
        model: transformer with its conditioner.
        gpt: the model's GPT, or a prepared form of it.
        schedule: windows it writes, over the whole canvas.
        token_filter: top-k, top-p and temperature.
        interpolation: how it is shown future tokens, see ``decode``.
    """

    model: Net2NetTransformer
    gpt: GPT
    schedule: Sequence[Window] = field(repr=False)
    token_filter: TokenFilter
    interpolation: Interpolation = "released"

    @property
    def bytes_per_sample(self) -> int:
        """Memory one sample takes while it is written: cache, logits, and a first pass."""
        gpt = self.gpt
        longest = max(self.model.conditioner.n_tokens + w.n_tokens for w in self.schedule)
        numbers = longest * gpt.n_embd * (2 * gpt.n_layer + 12) + 16 * gpt.vocab_size
        return numbers * max(gpt.pos_emb.element_size(), 2)

    def condition(self, indices: Sequence[int]) -> Tensor:
        """Give each sample its condition: class number i modulo the classes, or none.

        Args:
            indices: numbers of the samples.

        Returns:
            Condition tokens (B, L).
        """
        labels = torch.tensor(indices) % max(self.model.cond_vocab_size, 1)
        return self.model.encode_to_c(labels)[1]

    def write(self, codes: Tensor, indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Write this level's part of a canvas of codes (B, N), -1 where unknown."""
        offset = self.model.cond_vocab_size
        tokens = torch.where(codes < 0, codes, codes + offset)
        for _ in filled_windows(
            self.gpt,
            tokens,
            self.condition(indices),
            self.schedule,
            token_filter=self.token_filter,
            seeds=seeds,
            interpolation=self.interpolation,
            # Tokens of the condition's vocabulary are no codes and are never drawn (D5).
            valid_tokens=(offset, self.gpt.vocab_size),
        ):
            pass
        return torch.where(tokens < 0, tokens, tokens - offset)


@dataclass(frozen=True)
class VideoSampler:
    """Makes the clip of a sample's number, the same one in any batch and on any machine's turn.

    Args:
        levels: who writes what on the canvas, in order.
        decoder: turns its codes into frames.
        latent_shape: (frames, rows, columns) of the canvas.
        seed: sample i uses seed + i.
        known: codes (frames, rows, columns) every clip begins with; None for none.

    Raises:
        UserError: the schedules do not fit the models.
    """

    levels: tuple[Level, ...]
    decoder: FrameDecoder
    latent_shape: tuple[int, int, int]
    seed: int = 0
    known: Tensor | None = None

    def __post_init__(self) -> None:
        schedule = [window for level in self.levels for window in level.schedule]
        known = range(0 if self.known is None else self.known.numel())
        for level in self.levels:
            try:
                check_schedule(
                    schedule,
                    n_tokens=torch.Size(self.latent_shape).numel(),
                    known=known,
                    n_condition_tokens=level.model.conditioner.n_tokens,
                )
                for window in level.schedule:
                    n_inputs = level.model.conditioner.n_tokens + window.n_tokens - 1
                    if n_inputs > level.gpt.block_size:
                        raise ValueError(
                            f"a window needs {n_inputs} inputs; expected at most block_size "
                            f"{level.gpt.block_size}"
                        )
            except ValueError as error:
                raise UserError(f"the transformer cannot write this video: {error}") from error

    @property
    def device(self) -> torch.device:
        """Where codes are sampled."""
        return self.levels[0].gpt.pos_emb.device

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the clips."""
        t, h, w = (
            cells * rate
            for cells, rate in zip(self.latent_shape, self.decoder.downsample, strict=True)
        )
        return t, h, w

    def codes(self, indices: Sequence[int]) -> Tensor:
        """Sample the codes of some samples.

        Args:
            indices: numbers of the samples.

        Returns:
            Codes, int64 (B, frames, rows, columns).
        """
        shape = (len(indices), *self.latent_shape)
        codes = torch.full(shape, -1, device=self.device)
        if self.known is not None:
            codes[:, : len(self.known)] = self.known.to(self.device)
        codes = codes.flatten(1)
        # The same seeds for all levels: each place on the canvas has a random number of its own.
        seeds = [self.seed + index for index in indices]
        for level in self.levels:
            codes = level.write(codes, indices, seeds)
        return codes.view(shape)

    def clips(self, indices: Sequence[int]) -> Iterator[Iterator[Tensor]]:
        """Sample some clips.

        Args:
            indices: numbers of the samples.

        Yields:
            Each clip's frames as they are decoded: pieces of uint8 (n, H, W, 3), on the CPU.
        """
        for codes in self.codes(indices):
            yield (piece[0] for piece in self.decoder.pieces(codes[None]))
