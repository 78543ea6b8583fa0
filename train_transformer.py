"""Train a transformer, the second stage: condition and codes so far to the next code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytorch_lightning import seed_everything

from tats.data import VideoData
from tats.errors import one_line_errors
from tats.flags import (
    add_data_flags,
    add_trainer_flags,
    add_transformer_flags,
    check_block_size,
    check_clip,
    check_sound_length,
    check_transformer_args,
    new_parser,
)
from tats.models.transformer import Net2NetTransformer
from tats.training.trainer import TRANSFORMER_STAGE, build_trainer, fit, transformer_learning_rate


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Train a transformer on the codes of a trained VQGAN.")
    add_data_flags(parser)
    add_transformer_flags(parser)
    add_trainer_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the flags say; checkpoints and logs go below ``--default_root_dir``."""
    args = build_parser().parse_args(argv)
    check_transformer_args(args)
    trainer = build_trainer(args, TRANSFORMER_STAGE)

    seed_everything(args.seed, workers=True)
    data = VideoData(args)
    if args.cond_stage_key == "label" and not args.unconditional:
        args.class_cond_dim = data.n_classes
    model = Net2NetTransformer(
        args,
        first_stage_key=args.first_stage_key,
        cond_stage_key=args.cond_stage_key,
        clip=data.clip,
        learning_rate=transformer_learning_rate(args),
    )
    if model.first_stage_model is not None:
        check_clip(data.clip, model.first_stage_model.downsample)
    if model.cond_stage_model is not None:
        check_sound_length(args, model.cond_stage_model.clip)
    check_block_size(args, model.conditioner.n_tokens, model.latent_shape)
    fit(trainer, model, data, args, TRANSFORMER_STAGE)


if __name__ == "__main__":
    main()
