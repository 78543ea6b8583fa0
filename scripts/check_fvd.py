#!/usr/bin/env python
"""Compare FVD's network and weights on this machine with the figure of the TensorFlow original.

    python scripts/check_fvd.py        # two sets of 128 clips: minutes on a CPU, seconds on a GPU

The clips are uniform noise from a fixed seed; the original gives 10.138085 for them. Prints one
line of JSON and ends with an error if the difference is larger than float32 explains.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tats.devices import choose_device
from tats.errors import UserError, one_line_errors
from tats.evaluation import frechet_distance, load_i3d
from tats.evaluation.i3d import i3d_source
from tats.flags import new_parser

ORIGINAL_FVD = 10.138085  # RandomState(1) and (2), each .rand(128, 16, 224, 224, 3) as float32
TOLERANCE = {"tensorflow-exact": 1e-3, "torchscript": 1e-2, "published-port": 1e-1}  # relative
N_CLIPS, CLIPS_PER_PASS = 128, 4


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Check FVD against the figure of the TensorFlow original.")
    parser.add_argument("--i3d_path", help="weights of I3D; None = the fetched ones")
    parser.add_argument("--device", default="auto", help="auto = the GPU where there is one")
    return parser


@torch.inference_mode()
def noise_features(i3d: nn.Module, seed: int, device: torch.device) -> Tensor:
    """Compute the features of 128 clips of noise, (128, 400)."""
    random, features = np.random.RandomState(seed), []
    for _ in tqdm(range(N_CLIPS // CLIPS_PER_PASS), desc=f"noise of seed {seed}", unit="pass"):
        clips = random.rand(CLIPS_PER_PASS, 16, 224, 224, 3).astype(np.float32)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features.append(i3d(torch.from_numpy(clips).to(device).movedim(-1, 1)).cpu())
    return torch.cat(features)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Compute the figure, print it, and judge it."""
    args = build_parser().parse_args(argv)
    device = choose_device(args.device)
    source = i3d_source(args.i3d_path)
    i3d = load_i3d(args.i3d_path).to(device)
    start = time.perf_counter()
    fvd = frechet_distance(*(noise_features(i3d, seed, device) for seed in (1, 2)))
    result = {
        "fvd": fvd,
        "original": ORIGINAL_FVD,
        "seconds_per_clip": (time.perf_counter() - start) / (2 * N_CLIPS),
        "device": str(device),
        "weights": dataclasses.asdict(source),
    }
    print(json.dumps(result))
    if abs(fvd / ORIGINAL_FVD - 1) > TOLERANCE[source.kind]:
        raise UserError(f"FVD: got {fvd:.6f}; expected {ORIGINAL_FVD}; these are other weights")


if __name__ == "__main__":
    main()
