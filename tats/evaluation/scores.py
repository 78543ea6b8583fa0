"""Scores of videos: Inception Score, coherence of long videos, fidelity of reconstructions."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tats.errors import UserError

MAX_PSNR = 100.0  # dB, of equal clips: infinity would swallow every mean
AnyClips = Float[Tensor, "B *clip"] | UInt8[Tensor, "B *clip"]
_SMALLEST_PROBABILITY = 1e-7  # keeps the logarithm finite, as the published score does


class InceptionScore(NamedTuple):
    """Mean over the splits, and their standard deviation (0 for one split)."""

    mean: float
    std: float


class Coherence(NamedTuple):
    """How long videos keep to their first clip, for each clip of the video.

    Attributes:
        ccs: share of videos classified as their first clip is.
        ics: mean divergence of the class probabilities from those of the first clip.
    """

    ccs: Float[Tensor, " n_clips"]
    ics: Float[Tensor, " n_clips"]


class Fidelity(NamedTuple):
    """How close reconstructions are to the clips, one value a clip.

    Attributes:
        psnr: peak signal-to-noise ratio, dB, over the whole clip; at most 100.
        ssim: structural similarity, mean over frames.
        lpips: perceptual distance, mean over frames; NaN where no network was given.
    """

    psnr: Float[Tensor, " B"]
    ssim: Float[Tensor, " B"]
    lpips: Float[Tensor, " B"]


def inception_score(probabilities: Float[Tensor, "n classes"], n_splits: int = 1) -> InceptionScore:
    """Compute exp(mean KL(p ‖ mean p)).

    Args:
        probabilities: rows that sum to 1.
        n_splits: number of equal parts scored on their own; the published figure has one.

    Returns:
        The score, between 1 and the number of classes.

    Raises:
        UserError: there are fewer samples than splits, or rows are no probabilities.

    Source: Salimans et al. 2016; Saito et al. 2017.
    """
    probabilities = _checked_probabilities(probabilities)
    if not 1 <= n_splits <= len(probabilities):
        raise UserError(
            f"n_splits: got {n_splits}; expected 1 to {len(probabilities)}, the number of clips"
        )
    scores = torch.stack(
        [
            _divergence(part, part.mean(0, keepdim=True)).mean().exp()
            for part in probabilities.tensor_split(n_splits)
        ]
    )
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def coherence(probabilities: Float[Tensor, "n_videos n_clips classes"]) -> Coherence:
    """Compute the class and the inception coherence scores of long videos.

    Args:
        probabilities: of consecutive clips; as published 64 clips of 16 frames each.

    Returns:
        CCS_t = mean[argmax p_t = argmax p_0] and ICS_t = mean KL(p_t ‖ p_0).

    Raises:
        UserError: rows are no probabilities.

    Source: Ge et al. §4.3.
    """
    probabilities = _checked_probabilities(probabilities)
    first = probabilities[:, :1]
    same_class = probabilities.argmax(-1) == first.argmax(-1)
    return Coherence(same_class.double().mean(0), _divergence(probabilities, first).mean(0))


def psnr(real: AnyClips, fake: AnyClips, *, peak: float) -> Float[Tensor, " B"]:
    """Compute the peak signal-to-noise ratio of each clip, in dB; at most ``MAX_PSNR``.

    Args:
        real: clips.
        fake: what is compared with them.
        peak: the largest difference there can be: 255 of uint8, 1 of models' clips.
    """
    error = ((real.float() - fake.float()) / peak).square().flatten(1).mean(1)
    return -10 * error.clamp_min(10 ** (-MAX_PSNR / 10)).log10()


def fidelity(
    real: UInt8[Tensor, "B T H W C"],
    fake: UInt8[Tensor, "B T H W C"],
    lpips: nn.Module | None = None,
) -> Fidelity:
    """Compare reconstructions with the clips they are of.

    Args:
        real: H and W at least 11, C 1 or 3.
        fake: the same shape.
        lpips: ``tats.models.lpips.load_lpips()``; fed on its own scale, [-1, 1].

    Returns:
        PSNR, SSIM and LPIPS of each clip.

    Raises:
        ValueError: the shapes or types differ.
    """
    # Imported late: it takes seconds, and most runs never need it.
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    if (
        real.shape != fake.shape
        or real.dim() != 5
        or (real.dtype, fake.dtype) != (torch.uint8,) * 2
    ):
        raise ValueError(
            f"clips: got {real.dtype} {tuple(real.shape)} and {fake.dtype} {tuple(fake.shape)}; "
            "expected uint8 (B, T, H, W, C) twice"
        )
    n_clips = len(real)
    x, y = (clips.flatten(0, 1).permute(0, 3, 1, 2).float() for clips in (real, fake))
    similarity = cast(Tensor, ssim(y, x, data_range=255.0, reduction="none"))
    distance = torch.full((len(x),), float("nan"))
    if lpips is not None:
        with torch.inference_mode():
            distance = lpips(x / 127.5 - 1, y / 127.5 - 1).flatten()
    per_clip = [
        frames.unflatten(0, (n_clips, -1)).mean(1).cpu() for frames in (similarity, distance)
    ]
    return Fidelity(psnr(real, fake, peak=255).cpu(), *per_clip)


def _divergence(
    p: Float[Tensor, "*n classes"], q: Float[Tensor, "*m classes"]
) -> Float[Tensor, "*n"]:
    """KL(p ‖ q) over the last axis."""
    return (p * ((p + _SMALLEST_PROBABILITY).log() - (q + _SMALLEST_PROBABILITY).log())).sum(-1)


def _checked_probabilities(probabilities: Tensor) -> Tensor:
    probabilities = probabilities.double()
    sums = probabilities.sum(-1)
    if probabilities.numel() == 0 or bool((probabilities < 0).any()):
        raise UserError("probabilities: got none or negative ones; expected rows that sum to 1")
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise UserError(
            f"probabilities: got rows that sum to {float(sums.flatten()[0]):.4g}; expected 1, "
            "softmax them"
        )
    return probabilities
