"""A sampler as a value: who writes which tokens, from what, and how tokens become frames.

A ``Pass`` is one transformer with a condition and a schedule of windows. A ``VideoSampler`` is a
tuple of passes over one canvas of codes, and a decoder. ``stream`` is all it does: fill the canvas
window by window, and turn latent frames into pixels as soon as they are complete.

    condition(samples) ─┐
    canvas of -1 ───────┴→ passes, window by window → codes → decoder → frames
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tats.errors import UserError
from tats.flags import Interpolation
from tats.models.gpt import GPT
from tats.models.transformer import Net2NetTransformer
from tats.randomness import sample_seed
from tats.sampling.draw import TokenFilter
from tats.sampling.fill import filled_windows
from tats.sampling.pixels import FrameDecoder
from tats.sampling.windows import Window, check_schedule
from tats.video_io import Sound

# Gives samples, by their numbers, their condition tokens (B, L).
Condition = Callable[[Sequence[int]], Int[Tensor, "B L"]]
# Gives samples the codes (B, n) their clips begin with.
Beginning = Callable[[Sequence[int]], Int[Tensor, "B n"]]
VIEWING_RATE = 8.0  # frames a second: slow enough to look at sixteen frames


@dataclass(frozen=True)
class Given:
    """What samples are made from: nothing, classes, captions, or sounds.

    Args:
        tokens: a model's condition tokens (B, L) of samples, by their numbers.
        describe: what a sample was made from, as plain values for the record.
        identity: what decides ``tokens``, as plain values.
        frame_rate: at which to look at the clips, frames a second.
        present: turns a sample's number and its frames, uint8 (T, H, W, 3), into those to look at
            and the sound to hear; None for the frames as they are.
    """

    tokens: Callable[[Net2NetTransformer, Sequence[int]], Int[Tensor, "B L"]]
    describe: Callable[[int], dict[str, Any]]
    identity: Callable[[], Mapping[str, Any]]
    frame_rate: float = VIEWING_RATE
    present: Callable[[int, np.ndarray], tuple[np.ndarray, Sound | None]] | None = None


def classes(model: Net2NetTransformer, labels: Sequence[int] = ()) -> Given:
    """Samples of classes in turn, or of nothing where the model takes no condition.

    Args:
        model: says how many classes there are.
        labels: sample i is of class ``labels[i % len(labels)]``; empty for all classes in turn.
    """
    cycle = list(labels) or list(range(model.cond_vocab_size))

    def tokens(model: Net2NetTransformer, samples: Sequence[int]) -> Tensor:
        of_samples = [cycle[sample % len(cycle)] if cycle else 0 for sample in samples]
        return model.conditioner.encode(torch.tensor(of_samples))

    def describe(sample: int) -> dict[str, Any]:
        return {"label": cycle[sample % len(cycle)]} if cycle else {}

    return Given(tokens=tokens, describe=describe, identity=lambda: {"labels": cycle})


@dataclass(frozen=True)
class Pass:
    """One transformer's share of a canvas.

    Args:
        gpt: the transformer.
        offset: its token of code 0: the condition tokens in its vocabulary come first.
        condition: gives samples their condition tokens (B, L).
        n_condition: L.
        schedule: the windows it writes, over the whole canvas.
        token_filter: top-k, top-p and temperature.
        interpolation: how it is shown future tokens, see ``fill``.
    """

    gpt: GPT
    offset: int
    condition: Condition
    n_condition: int
    schedule: Sequence[Window] = field(repr=False)
    token_filter: TokenFilter
    interpolation: Interpolation = "released"

    def fill(
        self,
        codes: Int[Tensor, "B N"],
        condition: Int[Tensor, "B L"],
        schedule: Sequence[Window],
        seeds: Sequence[int],
    ) -> Iterator[Window]:
        """Write the codes that are unknown (-1) in place, window by window of ``schedule``."""
        tokens = torch.where(codes < 0, codes, codes + self.offset)
        windows = filled_windows(
            self.gpt,
            tokens,
            condition,
            schedule,
            token_filter=self.token_filter,
            seeds=seeds,
            interpolation=self.interpolation,
            # Tokens of the condition's vocabulary are no codes and are never drawn (D5).
            valid_tokens=(self.offset, self.gpt.vocab_size),
        )
        for window in windows:
            written = list(window.write)
            codes[:, written] = tokens[:, written] - self.offset
            yield window

    @property
    def bytes_per_sample(self) -> int:
        """Memory one sample takes while it is written: cache, logits, and a first pass."""
        ends = (self.schedule[0], self.schedule[len(self.schedule) - 1])
        longest = max(self.n_condition + window.n_tokens for window in ends)
        gpt = self.gpt
        numbers = longest * gpt.n_embd * (2 * gpt.n_layer + 12) + 16 * gpt.vocab_size
        return numbers * max(gpt.pos_emb.element_size(), 2)


@dataclass(frozen=True)
class VideoSampler:
    """Makes the clip of a sample's number: the same one in any batch, process and sitting.

    Args:
        kind: short, long, hierarchical, text or audio.
        passes: who writes what on the canvas. A window is written as soon as what it reads is
            known, those of later passes first; as every token has random numbers of its own, the
            order affects nothing but how soon frames come.
        decoder: turns codes into frames.
        latent_shape: (frames, rows, columns) of the canvas.
        given: what samples are made from.
        n_frames: frames of a clip, where the canvas holds a few more; None for all.
        seed: with a sample's number, it decides the sample's random numbers.
        beginning: codes the clips begin with; None for none.
        n_known: how many those are.
        settings: what else samples depend on, as plain values.
        checkpoints: names the model files and their sha256, when asked.

    Raises:
        UserError: the schedules do not fit the models.
    """

    kind: str
    passes: tuple[Pass, ...]
    decoder: FrameDecoder
    latent_shape: tuple[int, int, int]
    given: Given
    n_frames: int | None = None
    seed: int = 0
    beginning: Beginning | None = None
    n_known: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Callable[[], Mapping[str, Mapping[str, str]]] = dict

    def __post_init__(self) -> None:
        n_tokens = torch.Size(self.latent_shape).numel()
        known = set(range(self.n_known))
        for number, share in enumerate(self.passes, start=1):
            try:
                check_schedule(
                    share.schedule,
                    n_tokens=n_tokens,
                    known=known,
                    n_condition_tokens=share.n_condition,
                    block_size=share.gpt.block_size,
                    complete=number == len(self.passes),
                )
            except ValueError as error:
                raise UserError(f"the transformer cannot write this video: {error}") from error
            if number < len(self.passes):
                known.update(index for window in share.schedule for index in window.write)

    @property
    def device(self) -> torch.device:
        """Where codes are sampled."""
        return self.passes[0].gpt.pos_emb.device

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the clips."""
        t, h, w = (
            cells * rate
            for cells, rate in zip(self.latent_shape, self.decoder.downsample, strict=True)
        )
        return self.n_frames or t, h, w

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything a sample depends on besides the seed and its number, as plain values."""
        sha256 = {name: file["sha256"] for name, file in self.checkpoints().items()}
        return {
            "sampler": self.kind,
            "clip_shape": list(self.clip_shape),
            "latent_shape": list(self.latent_shape),
            "checkpoints": sha256,
            "given": dict(self.given.identity()),
            **self.settings,
        }

    def describe(self, sample: int) -> dict[str, Any]:
        """Say what a sample was made from, as plain values."""
        return self.given.describe(sample)

    @property
    def bytes_per_sample(self) -> int:
        """Memory one sample takes while its tokens are written."""
        by_gpt = {id(share.gpt): 0 for share in self.passes}
        for share in self.passes:
            by_gpt[id(share.gpt)] = max(by_gpt[id(share.gpt)], share.bytes_per_sample)
        return sum(by_gpt.values())

    def new_canvas(self, samples: Sequence[int]) -> Int[Tensor, "B N"]:
        """Lay out samples' codes: what their clips begin with, and -1 for what is to be sampled."""
        n_tokens = torch.Size(self.latent_shape).numel()
        canvas = torch.full((len(samples), n_tokens), -1, device=self.device)
        if self.beginning is not None:
            canvas[:, : self.n_known] = self.beginning(samples).to(canvas)
        return canvas

    @torch.no_grad()
    def stream(
        self, samples: Sequence[int], canvas: Int[Tensor, "B N"]
    ) -> Iterator[UInt8[Tensor, "B n H W 3"]]:
        """Sample clips, and yield their frames as soon as there are some.

        Args:
            samples: their numbers.
            canvas: as ``new_canvas`` lays it out, or as an interrupted ``stream`` left it; it is
                filled in place.

        Yields:
            The clips' next frames, on the CPU; after each window, so there may be none (n = 0).
        """
        n_latents, rows, columns = self.latent_shape
        codes = canvas.view(len(samples), n_latents, rows, columns)
        # Pieces end at the same frames however the canvas is filled, so that pixels are equal.
        size = self.decoder.latents_per_piece(rows * columns)
        pixels, progress = self.decoder.stream(n_latents), _Progress(canvas, rows * columns)
        n_sent, n_left = 0, self.clip_shape[0]
        for window in itertools.chain([None], self._windows(canvas, samples)):
            n_known = progress.after(window)
            while n_sent < n_known and min(n_sent + size, n_latents) <= n_known:
                stop = min(n_sent + size, n_latents)
                frames = pixels.push(codes[:, n_sent:stop], last=stop == n_latents)[:, :n_left]
                n_sent, n_left = stop, n_left - frames.shape[1]
                yield frames
            yield _no_frames(len(samples), self.clip_shape)

    def _windows(self, canvas: Tensor, samples: Sequence[int]) -> Iterator[Window]:
        seeds = [sample_seed(self.seed, sample) for sample in samples]
        conditions = [share.condition(samples).to(canvas.device) for share in self.passes]
        for number, schedule in self._turns(canvas):
            yield from self.passes[number].fill(canvas, conditions[number], schedule, seeds)

    def _turns(self, canvas: Tensor) -> Iterator[tuple[int, Sequence[Window]]]:
        """Which pass writes which windows next: the last pass that can go on."""
        if len(self.passes) == 1:
            yield 0, self.passes[0].schedule
            return
        known = (canvas[0] >= 0).cpu().numpy()
        n_done = [0] * len(self.passes)
        while True:
            ready = [
                number
                for number, share in enumerate(self.passes)
                if n_done[number] < len(share.schedule)
                and known[_reads(share.schedule[n_done[number]])].all()
            ]
            if not ready:
                return
            window = self.passes[ready[-1]].schedule[n_done[ready[-1]]]
            n_done[ready[-1]] += 1
            known[list(window.write)] = True
            yield ready[-1], [window]


def _reads(window: Window) -> list[int]:
    return [*window.past, *window.future]


def _no_frames(n_samples: int, clip_shape: tuple[int, int, int]) -> Tensor:
    return torch.empty((n_samples, 0, *clip_shape[1:], 3), dtype=torch.uint8)


class _Progress:
    """Counts the latent frames, from the first on, whose codes are all known."""

    def __init__(self, canvas: Tensor, tokens_per_frame: int) -> None:
        self._known = (canvas[0] >= 0).cpu().numpy()
        self._tokens_per_frame = tokens_per_frame
        self._n_tokens = 0  # known ones from the first on

    def after(self, window: Window | None) -> int:
        """Known latent frames once ``window`` is written too."""
        if window is not None:
            self._known[list(window.write)] = True
        while self._n_tokens < len(self._known) and self._known[self._n_tokens]:
            self._n_tokens += 1
        return self._n_tokens // self._tokens_per_frame
