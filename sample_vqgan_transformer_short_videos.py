"""Sample videos as long as the training clips, and score them against real ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from tats.errors import one_line_errors
from tats.evaluation.fvd import fvd_meter
from tats.flags import (
    add_short_sampling_flags,
    check_sampling_args,
    new_parser,
)
from tats.models.transformer import load_transformer
from tats.sampling.outputs import command_line, output_folder, write_samples
from tats.sampling.ranks import rank
from tats.sampling.samplers import place_model, short_sampler


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample videos as long as the training clips, and compute their FVD.")
    add_short_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips into ``--save`` and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    check_sampling_args(args)
    with output_folder(args) as folder:
        model = load_transformer(args.gpt_ckpt, args.vqgan_ckpt)
        sampler = short_sampler(args, place_model(model, args.device, args.precision))
        meter = None
        if args.compute_fvd and rank() == 0:
            meter = fvd_meter(args, sampler.clip_shape, sampler.device)
        result = write_samples(
            sampler,
            args,
            folder,
            argv=command_line(argv),
            checkpoints=[args.gpt_ckpt, args.vqgan_ckpt],
            meter=meter,
        )
    if result is not None:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
