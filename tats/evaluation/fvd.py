"""Scoring clips against real ones while they are sampled: FVD and KVD as published."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tats.clip_spec import ClipSpec
from tats.data import VideoData
from tats.errors import UserError
from tats.evaluation import I3DFeatures, frechet_distance, load_i3d, polynomial_mmd
from tats.evaluation.i3d import MIN_FRAMES
from tats.flags import check_data_args, with_defaults
from tats.video_io import to_uint8

log = logging.getLogger(__name__)

FVD_BATCH = 8  # clips read together where the samplers' batch is automatic
MIN_CLIPS = 2  # a covariance needs two
Features = Callable[[Tensor], Tensor]  # clips uint8 (B, T, H, W, 3) to (B, features)


class FvdMeter:
    """Compares clips with real ones; it keeps their features, never the clips.

    Args:
        features: the network.
        real: features of the real clips, (n, features).
    """

    def __init__(self, features: Features, real: Tensor) -> None:
        self.features = features
        self.real = real
        self._fake: list[Tensor] = []

    def add(self, clips: Tensor) -> None:
        """Take in the next clips, uint8 (B, T, H, W, 3)."""
        self._fake.append(self.features(clips).cpu())

    def scores(self) -> dict[str, Any]:
        """Compare all clips so far: ``fvd``, ``kvd``, and the clips on each side."""
        fake = torch.cat(self._fake)
        return {
            "fvd": float(frechet_distance(self.real, fake)),
            "kvd": float(polynomial_mmd(self.real, fake)),
            "n_real": len(self.real),
            "n_fake": len(fake),
        }


def fvd_meter(args: Namespace, *, n_frames: int, device: torch.device) -> FvdMeter:
    """Load I3D and read the real clips: random ones of the training split.

    Args:
        args: data flags and ``n_sample``.
        n_frames: frames of a sampled clip.
        device: where I3D works.

    Returns:
        A meter that waits for the sampled clips.

    Raises:
        UserError: the flags, the data or the weights do not allow a comparison.

    Source: paper section 4.1; docs/DEVIATIONS.md D15.
    """
    if args.batch_size == "auto":
        args = Namespace(**{**vars(args), "batch_size": FVD_BATCH})
    check_data_args(args)
    if args.vtokens:
        raise UserError("--compute_fvd got --vtokens; expected data with frames, not codes")
    if args.n_sample < MIN_CLIPS:
        raise UserError(
            f"--n_sample got {args.n_sample}; expected {MIN_CLIPS} or more for --compute_fvd"
        )
    n_real_frames = ClipSpec.from_flags(args).frames
    if n_real_frames != n_frames or n_frames < MIN_FRAMES:
        raise UserError(
            f"--sequence_length gives real clips of {n_real_frames} frames, sampled ones have "
            f"{n_frames}; expected the same number, {MIN_FRAMES} or more"
        )
    features = I3DFeatures(load_i3d().to(device))
    return FvdMeter(features, _real_features(args, features))


def like_sampled(args: Namespace, *, n_frames: int, resolution: int) -> Namespace:
    """Complete a sampler's few data flags so that real clips are as long and large as its own.

    Args:
        args: the sampler's flags.
        n_frames: frames of a sampled clip.
        resolution: side of a sampled clip in pixels.

    Returns:
        All data flags, and the sampler's.
    """
    length = n_frames * args.sample_every_n_frames
    return with_defaults({**vars(args), "sequence_length": length, "resolution": resolution})


def _real_features(args: Namespace, features: Features) -> Tensor:
    data = VideoData(args)
    found: list[Tensor] = []
    n_left = args.n_sample
    with tqdm(total=n_left, unit="clip", desc="real clips") as progress:
        for batch in data.train_dataloader():
            clips = to_uint8(batch["video"][:n_left])
            found.append(features(clips).cpu())
            n_left -= len(clips)
            progress.update(len(clips))
            if n_left == 0:
                break
    if n_left:
        log.warning(
            "--data_path has %d clips; FVD compares these with the %d sampled",
            args.n_sample - n_left,
            args.n_sample,
        )
    return torch.cat(found)
