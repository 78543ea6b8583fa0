#!/usr/bin/env python
"""Say how well trained models do on the test split: is the codebook used, does the GPT predict?

    python scripts/evaluate_heldout.py --vqgan_ckpt V.ckpt --gpt_ckpt G.ckpt --data_path DATA \
        --resolution 128 --n_clips 256

Prints one line of JSON: PSNR in dB of the reconstructions, perplexity of the codes over all
clips together, their unigram entropy in nats (what a model that knew only how often each code
occurs would score), and the GPT's cross-entropy in nats per code. With --shuffle_condition also
its cross-entropy when every clip comes with another clip's sound, caption or label of the same
batch, and the difference, in nats per clip with its standard error: what the condition is worth.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tats.data import VideoData
from tats.devices import choose_device
from tats.errors import UserError, one_line_errors
from tats.evaluation.scores import psnr
from tats.flags import add_data_flags, new_parser
from tats.models.transformer import Net2NetTransformer, load_transformer
from tats.models.vqgan import VQGAN, load_vqgan
from tats.video_io import to_uint8, video_grid, write_video

GRID_FPS = 8
GRID_CLIPS = 8


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Measure trained models on the test split.")
    add_data_flags(parser)
    parser.add_argument("--vqgan_ckpt", required=True, help="trained VQGAN")
    parser.add_argument("--gpt_ckpt", help="transformer trained on its codes")
    parser.add_argument("--stft_vqgan_ckpt", default="", help="STFT-VQGAN it was trained with")
    parser.add_argument(
        "--shuffle_condition", action="store_true", help="also score clips with others' conditions"
    )
    parser.add_argument("--n_clips", type=int, default=256, help="test clips to measure on")
    parser.add_argument("--device", default="auto", help="auto = the GPU where there is one")
    parser.add_argument("--grid", type=Path, help="video of clips beside their reconstructions")
    return parser


def held_out_batches(args: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """Give ``--n_clips`` test clips spread over the whole split, in batches on a device."""
    dataset = VideoData(args).dataset(train=False)
    n_clips = min(args.n_clips, len(dataset))
    if args.shuffle_condition and n_clips % args.batch_size == 1:
        n_clips -= 1  # it would have no other clip in its batch
    indices = torch.linspace(0, len(dataset) - 1, n_clips).round().int().tolist()
    if args.shuffle_condition:  # neighbours in a data set are often of one video, or of one class
        order = torch.randperm(n_clips, generator=torch.Generator().manual_seed(0))
        indices = [indices[number] for number in order]
    for start in tqdm(range(0, n_clips, args.batch_size), desc="measuring", unit="batch"):
        items = [dataset[index] for index in indices[start : start + args.batch_size]]
        batch = torch.utils.data.default_collate(items)
        yield {
            key: value.to(device) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }


class HeldOutFigures:
    """Sums over batches of what is measured."""

    def __init__(
        self, vqgan: VQGAN, model: Net2NetTransformer | None, *, shuffle_condition: bool = False
    ) -> None:
        self.vqgan, self.model = vqgan, model
        self.shuffle_condition = shuffle_condition
        self.shuffled_loss = 0.0
        self.gains: list[float] = []  # of every batch, in nats per clip
        self.n_clips = 0
        self.counts = torch.zeros(vqgan.n_codes, dtype=torch.float64)
        self.psnr, self.loss = 0.0, 0.0

    @torch.no_grad()
    def add(self, batch: dict[str, Any]) -> Tensor:
        """Measure one batch; returns its reconstructions (B, C, T, H, W)."""
        video = batch["video"]
        codes = self.vqgan.encode(video)
        reconstruction = self.vqgan.decode(codes).clamp(-0.5, 0.5)
        self.psnr += float(psnr(video, reconstruction, peak=1.0).sum())
        self.counts += torch.bincount(codes.flatten(), minlength=self.vqgan.n_codes).cpu()
        if self.model is not None:
            loss = float(self.model.shared_step(batch, 0)[0])
            self.loss += loss * len(video)
            if self.shuffle_condition:
                key = self.model.conditioner.batch_key
                assert key is not None, "checked with the flags"
                others = {**batch, key: batch[key].roll(1, dims=0)}
                shuffled = float(self.model.shared_step(others, 0)[0])
                self.shuffled_loss += shuffled * len(video)
                self.gains.append((shuffled - loss) * codes[0].numel())
        self.n_clips += len(video)
        return reconstruction

    def summary(self) -> dict[str, float | int]:
        """Figures over all clips."""
        usage = self.counts / self.counts.sum()
        entropy = float(-torch.xlogy(usage, usage).sum())
        figures: dict[str, float | int] = {
            "n_clips": self.n_clips,
            "psnr": self.psnr / self.n_clips,
            "n_codes": self.vqgan.n_codes,
            "codes_used": int((self.counts > 0).sum()),
            "perplexity": math.exp(entropy),
            "unigram_entropy": entropy,
        }
        if self.model is not None:
            figures["transformer_loss"] = self.loss / self.n_clips
        if self.model is not None and self.shuffle_condition:
            figures["transformer_loss_shuffled"] = self.shuffled_loss / self.n_clips
            figures["gain_per_clip"] = statistics.fmean(self.gains)
        if len(self.gains) > 1:  # from how much the batches differ
            error = statistics.stdev(self.gains) / math.sqrt(len(self.gains))
            figures["gain_per_clip_error"] = error
        return figures


def check_shuffling(args: argparse.Namespace, model: Net2NetTransformer | None) -> None:
    """Refuse to shuffle conditions that are not there, or within batches of one."""
    if args.shuffle_condition and (model is None or model.unconditional):
        raise UserError("--shuffle_condition got no conditional model; expected one by --gpt_ckpt")
    if args.shuffle_condition and args.batch_size < 2:
        raise UserError(f"--batch_size got {args.batch_size}; expected 2 or more, to shuffle among")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write ``--grid``, print one line of JSON."""
    args = build_parser().parse_args(argv)
    if args.n_clips < 1:
        raise UserError(f"--n_clips got {args.n_clips}; expected 1 or more")
    device = choose_device(args.device)
    vqgan = load_vqgan(args.vqgan_ckpt, flag="--vqgan_ckpt").to(device)
    model = None
    if args.gpt_ckpt:
        model = load_transformer(args.gpt_ckpt, args.vqgan_ckpt, args.stft_vqgan_ckpt).to(device)
    check_shuffling(args, model)
    figures = HeldOutFigures(vqgan, model, shuffle_condition=args.shuffle_condition)
    shown = []
    for batch in held_out_batches(args, device):
        reconstruction = figures.add(batch)
        if args.grid:
            pair = (to_uint8(video).cpu() for video in (batch["video"], reconstruction))
            shown.append(torch.stack(list(pair), dim=1))
    if args.grid:
        pairs = torch.cat(shown)  # (n, 2, T, H, W, C)
        chosen = torch.linspace(0, len(pairs) - 1, min(GRID_CLIPS, len(pairs))).round().long()
        columns = pairs[chosen].transpose(0, 1).flatten(0, 1)  # originals, then copies
        write_video(args.grid, video_grid(columns, nrow=2), GRID_FPS)
    print(json.dumps(figures.summary()))


if __name__ == "__main__":
    main()
