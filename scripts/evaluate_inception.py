#!/usr/bin/env python
"""Compute the Inception Score of clips, or the coherence scores of long videos, with C3D.

    python scripts/evaluate_inception.py --clips samples.npy \
        --c3d_weights conv3d_deepnetA_ucf.npz --c3d_mean mean2.npz

The clips are a ``.npy`` of uint8 (n, T, H, W, 3). T = 16 gives the Inception Score (published: of
10,240 samples of a model of UCF-101); a longer T gives CCS and ICS of the consecutive 16-frame
clips (published: T = 1024). The two weight files of C3D are the user's own: those in common use
bear these names. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tats.devices import choose_device
from tats.errors import UserError, one_line_errors
from tats.evaluation.c3d import C3D, N_FRAMES, load_c3d
from tats.evaluation.scores import coherence, inception_score
from tats.flags import new_parser
from tats.paths import file_sha256


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Compute the Inception Score or the coherence of videos.")
    parser.add_argument("--clips", type=Path, required=True, help=".npy, uint8 (n, T, H, W, 3)")
    parser.add_argument("--c3d_weights", type=Path, required=True, help="conv3d_deepnetA_ucf.npz")
    parser.add_argument("--c3d_mean", type=Path, required=True, help="mean2.npz")
    parser.add_argument("--n_splits", type=int, default=1, help="parts scored on their own")
    parser.add_argument("--batch_size", type=int, default=16, help="clips per pass")
    parser.add_argument("--device", default="auto", help="auto = the GPU where there is one")
    return parser


def open_videos(path: Path) -> np.ndarray:
    """Open the videos where they lie.

    Raises:
        UserError: the file is no such array, or its videos are no whole number of clips.
    """
    try:
        videos = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--clips: got {path} ({str(error).splitlines()[0]})") from None
    is_video = videos.dtype == np.uint8 and videos.ndim == 5 and videos.shape[-1] == 3
    if not is_video or not len(videos) or not videos.shape[1] or videos.shape[1] % N_FRAMES:
        raise UserError(
            f"--clips: got {videos.dtype} {videos.shape} in {path}; expected uint8 (n, T, H, W, "
            f"3), T a multiple of {N_FRAMES}"
        )
    return videos


@torch.inference_mode()
def clip_probabilities(c3d: C3D, videos: np.ndarray, batch_size: int) -> Tensor:
    """Classify every 16-frame clip, (n, T / 16, 101)."""
    n_videos, n_clips = len(videos), videos.shape[1] // N_FRAMES
    found = []
    for start in tqdm(range(0, n_videos * n_clips, batch_size), desc="classifying", unit="batch"):
        places = range(start, min(start + batch_size, n_videos * n_clips))
        clips = [
            videos[i // n_clips, i % n_clips * N_FRAMES : (i % n_clips + 1) * N_FRAMES]
            for i in places
        ]
        found.append(c3d(torch.from_numpy(np.stack(clips)).to(c3d.mean.device)).cpu())
    return torch.cat(found).unflatten(0, (n_videos, n_clips))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Score the clips and print one line of JSON."""
    args = build_parser().parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch_size: got {args.batch_size}; expected 1 or more")
    videos = open_videos(args.clips)
    if not 1 <= args.n_splits <= len(videos):
        raise UserError(f"--n_splits: got {args.n_splits}; expected 1 to {len(videos)}")
    device = choose_device(args.device)
    c3d = load_c3d(args.c3d_weights, args.c3d_mean).to(device)
    probabilities = clip_probabilities(c3d, videos, args.batch_size)
    result: dict[str, Any] = {"n_videos": len(videos), "n_frames": videos.shape[1]}
    if probabilities.shape[1] == 1:
        score = inception_score(probabilities[:, 0], args.n_splits)
        result |= {"inception_score": score.mean, "inception_score_std": score.std}
    else:
        curves = coherence(probabilities)
        result |= {"ccs": curves.ccs.tolist(), "ics": curves.ics.tolist()}
    print(json.dumps({**result, "weights_sha256": file_sha256(args.c3d_weights)}))


if __name__ == "__main__":
    main()
