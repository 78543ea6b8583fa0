#!/usr/bin/env python
"""Measure what a VQGAN loses: rFVD, PSNR, SSIM and LPIPS of its reconstructions.

    python scripts/evaluate_reconstruction.py --vqgan_ckpt V.ckpt --data_path DATA \
        --resolution 128 --n_clips 2048

Published figures are of the training split, rFVD between 2048 clips and their reconstructions.
Clips are spread over the split. Prints one line of JSON; PSNR in dB over whole clips, LPIPS on
its own scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from tats.clip_spec import ClipSpec
from tats.data import VideoData
from tats.devices import choose_device
from tats.errors import UserError, one_line_errors
from tats.evaluation import I3DFeatures, frechet_distance, load_i3d, polynomial_mmd
from tats.evaluation.i3d import MIN_FRAMES, i3d_source
from tats.evaluation.scores import fidelity
from tats.flags import add_data_flags, check_data_args, new_parser
from tats.models.lpips import LPIPS, load_lpips
from tats.models.vqgan import VQGAN, load_vqgan
from tats.video_io import to_uint8

SCORES = ("psnr", "ssim", "lpips")


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Measure a VQGAN's reconstructions.")
    parser.add_argument("--vqgan_ckpt", required=True, help="trained VQGAN")
    parser.add_argument("--n_clips", type=int, default=2048, help="clips, fewer if there are fewer")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="of the data")
    parser.add_argument("--i3d_path", help="weights of I3D; None = the fetched ones")
    parser.add_argument("--vgg16_path", help="weights of LPIPS' VGG16; None = the fetched ones")
    parser.add_argument("--device", default="auto", help="auto = the GPU where there is one")
    parser.add_argument("--seed", type=int, default=0, help="chooses random starts, if any")
    add_data_flags(parser)
    return parser


def clip_batches(args: argparse.Namespace) -> Iterator[Tensor]:
    """Read ``--n_clips`` clips spread over the split, (B, C, T, H, W) in [-0.5, 0.5]."""
    dataset = VideoData(args).dataset(train=args.split == "train")
    n_clips = min(args.n_clips, len(dataset))
    chosen = torch.linspace(0, len(dataset) - 1, n_clips).round().int().tolist()
    loader: DataLoader[Any] = DataLoader(
        Subset(dataset, chosen), batch_size=args.batch_size, num_workers=args.num_workers
    )
    for batch in tqdm(loader, desc="reconstructing", unit="batch"):
        yield batch["video"]


class ReconstructionFigures:
    """Features and scores of clips and their reconstructions; the clips are not kept."""

    def __init__(self, vqgan: VQGAN, i3d: I3DFeatures, lpips: LPIPS) -> None:
        self.vqgan, self.i3d, self.lpips = vqgan, i3d, lpips
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []
        self.scores: dict[str, list[Tensor]] = {name: [] for name in SCORES}

    @torch.inference_mode()
    def add(self, video: Tensor) -> None:
        """Reconstruct a batch (B, C, T, H, W) and measure it."""
        reconstruction = to_uint8(self.vqgan.reconstruct(video.to(self.vqgan.device)))
        real = to_uint8(video.to(self.vqgan.device))  # (B, T, H, W, C)
        self.real.append(self.i3d(real))
        self.fake.append(self.i3d(reconstruction))
        for name, values in fidelity(real, reconstruction, self.lpips)._asdict().items():
            self.scores[name].append(values)

    def summary(self) -> dict[str, float | int]:
        """Figures over all clips."""
        real, fake = torch.cat(self.real), torch.cat(self.fake)
        means = {name: float(torch.cat(values).mean()) for name, values in self.scores.items()}
        distances = {"rfvd": frechet_distance(real, fake), "rkvd": polynomial_mmd(real, fake)}
        return {**distances, **means, "n_clips": len(real)}


def check_args(args: argparse.Namespace) -> None:
    """Check the flags together, before any work.

    Raises:
        UserError: one is missing or out of range.
    """
    check_data_args(args)
    if args.n_clips < 2:
        raise UserError(f"--n_clips: got {args.n_clips}; expected 2 or more")
    if args.vtokens or args.image_channels != 3:
        raise UserError(
            f"--vtokens, --image_channels: got {args.vtokens}, {args.image_channels}; expected "
            "colour frames"
        )
    n_frames = ClipSpec.from_flags(args).frames
    if n_frames < MIN_FRAMES:
        raise UserError(
            f"--sequence_length: gives clips of {n_frames} frames; expected at least "
            f"{MIN_FRAMES}, the fewest that FVD's network takes"
        )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure the reconstructions and print one line of JSON."""
    args = build_parser().parse_args(argv)
    check_args(args)
    device = choose_device(args.device)
    vqgan = load_vqgan(args.vqgan_ckpt, flag="--vqgan_ckpt").to(device).eval()
    i3d, lpips = load_i3d(args.i3d_path).to(device), load_lpips(args.vgg16_path).to(device)
    figures = ReconstructionFigures(vqgan, I3DFeatures(i3d), lpips)
    for video in clip_batches(args):
        figures.add(video)
    weights = dataclasses.asdict(i3d_source(args.i3d_path))
    print(json.dumps({**figures.summary(), "split": args.split, "weights": weights}))


if __name__ == "__main__":
    main()
