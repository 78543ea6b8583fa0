"""Train a VQGAN, the first stage: video to a grid of codebook indices and back."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from pytorch_lightning import seed_everything

from tats.data import VideoData, check_channels
from tats.errors import one_line_errors
from tats.flags import (
    add_data_flags,
    add_trainer_flags,
    add_vqgan_flags,
    check_vqgan_args,
    new_parser,
)
from tats.models.lpips import load_lpips
from tats.models.vqgan import VQGAN
from tats.training.trainer import VQGAN_STAGE, build_trainer, fit, vqgan_learning_rate

log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Train a VQGAN, which turns video into a grid of codebook indices.")
    add_data_flags(parser)
    add_vqgan_flags(parser)
    add_trainer_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the flags say; checkpoints and logs go below ``--default_root_dir``."""
    args = build_parser().parse_args(argv)
    if args.stft_data and args.image_channels != 1:
        log.warning("--stft_data: spectrograms have one channel, so --image_channels is 1")
        args.image_channels = 1
    check_vqgan_args(args)
    check_channels(args)
    trainer = build_trainer(args, VQGAN_STAGE)
    perceptual_model = load_lpips() if args.perceptual_weight > 0 else None

    seed_everything(args.seed, workers=True)
    data = VideoData(args)
    model = VQGAN(
        args,
        clip=data.clip,
        perceptual_model=perceptual_model,
        learning_rate=vqgan_learning_rate(args),
    )
    fit(trainer, model, data, args, VQGAN_STAGE)


if __name__ == "__main__":
    main()
