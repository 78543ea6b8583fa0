"""Scoring clips against real ones while they are sampled: FVD and KVD as published."""

from __future__ import annotations

import dataclasses
import logging
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tats.clip_spec import ClipSpec, ShapeTHW
from tats.data import VideoData
from tats.errors import UserError
from tats.evaluation import I3DFeatures, frechet_distance, load_i3d, polynomial_mmd
from tats.evaluation.i3d import MIN_FRAMES, WeightSource, i3d_source
from tats.flags import check_data_args, with_defaults
from tats.video_io import to_uint8

log = logging.getLogger(__name__)

FVD_BATCH = 8  # clips that go through the network together
MIN_CLIPS = 2  # a covariance needs two


class FvdMeter:
    """Compares clips with real ones; it keeps their features, not the clips.

    Args:
        features: the network.
        real: features of the real clips.
        source: the network's weights, named beside the scores.
    """

    def __init__(
        self, features: I3DFeatures, real: Float[Tensor, "n d"], source: WeightSource
    ) -> None:
        self.features, self.real, self.source = features, real, source
        self._waiting: list[Tensor] = []
        self._fake: list[Tensor] = []

    def add(self, clips: UInt8[Tensor, "B T H W 3"]) -> None:
        """Take in the next clips, few or many."""
        self._waiting += clips
        while len(self._waiting) >= FVD_BATCH:
            self._measure(FVD_BATCH)

    def scores(self) -> dict[str, Any]:
        """Compare all clips so far: ``fvd``, ``kvd``, the clips on each side, I3D's weights."""
        if self._waiting:
            self._measure(len(self._waiting))
        fake = torch.cat(self._fake)
        return {
            "fvd": float(frechet_distance(self.real, fake)),
            "kvd": float(polynomial_mmd(self.real, fake)),
            "n_real": len(self.real),
            "n_fake": len(fake),
            "i3d": dataclasses.asdict(self.source),
        }

    def _measure(self, n_clips: int) -> None:
        self._fake.append(self.features(torch.stack(self._waiting[:n_clips])))
        del self._waiting[:n_clips]


def fvd_meter(args: Namespace, clip_shape: ShapeTHW, device: torch.device) -> FvdMeter:
    """Load I3D and read the real clips: random ones of the training split.

    Args:
        args: data flags, ``n_sample`` and ``i3d_path``.
        clip_shape: frames, height and width of a sampled clip.
        device: where I3D works.

    Returns:
        A meter that waits for the sampled clips.

    Raises:
        UserError: the flags, the data or the weights do not allow a comparison.

    Source: Ge et al. §4.1; D15.
    """
    if args.batch_size == "auto":
        args = Namespace(**{**vars(args), "batch_size": FVD_BATCH})
    check_data_args(args)
    if args.n_sample < MIN_CLIPS:
        raise UserError(
            f"--n_sample got {args.n_sample}; expected {MIN_CLIPS} or more for --compute_fvd"
        )
    _check_comparable(ClipSpec.from_flags(args), clip_shape)
    features = I3DFeatures(load_i3d(args.i3d_path).to(device), clips_per_pass=FVD_BATCH)
    return FvdMeter(features, _real_features(args, features), i3d_source(args.i3d_path))


def like_sampled(args: Namespace, clip_shape: ShapeTHW) -> Namespace:
    """Complete a sampler's few data flags so that real clips are as long and large as its own.

    Args:
        args: the sampler's flags.
        clip_shape: frames, height and width of a sampled clip; a square one.

    Returns:
        All data flags, and the sampler's.
    """
    n_frames, height, _ = clip_shape
    length = n_frames * args.sample_every_n_frames
    return with_defaults({**vars(args), "sequence_length": length, "resolution": height})


def _check_comparable(real: ClipSpec, clip_shape: ShapeTHW) -> None:
    n_frames, height, width = clip_shape
    if real.kind == "codes":
        raise UserError("--compute_fvd got --vtokens; expected data with frames, not codes")
    if real.channels != 3:
        raise UserError(f"--compute_fvd got --image_channels {real.channels}; expected colour, 3")
    if real.frames != n_frames or n_frames < MIN_FRAMES:
        raise UserError(
            f"--sequence_length gives real clips of {real.frames} frames, sampled ones have "
            f"{n_frames}; expected the same number, {MIN_FRAMES} or more"
        )
    if (real.height, real.width) != (height, width):
        raise UserError(
            f"--resolution gives real clips of {real.height}×{real.width} pixels, sampled ones "
            f"have {height}×{width}; expected the same size: give --resolution {height}"
        )


def _real_features(args: Namespace, features: I3DFeatures) -> Float[Tensor, "n d"]:
    loader = VideoData(args).train_dataloader()
    n_there = len(cast(Any, loader.sampler))
    if n_there < args.n_sample:
        log.warning(
            "--data_path has %d clips; FVD compares these with the %d sampled",
            n_there,
            args.n_sample,
        )
    clips: Iterator[Tensor] = (to_uint8(batch["video"]) for batch in loader)
    return features.collect(clips, min(n_there, args.n_sample), description="real clips")
