"""Sample videos as long as the training clips, and score them against real ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tats import commands
from tats.errors import one_line_errors
from tats.evaluation.fvd import fvd_meter
from tats.flags import add_short_sampling_flags, check_sampling_args, new_parser
from tats.sampling.ranks import rank
from tats.sampling.run_files import Outputs


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
    tats = commands.load(args, gpt=args.gpt_ckpt, vqgan=args.vqgan_ckpt)
    labels = commands.chosen_classes(args, tats)
    sampler = tats.sampler(label=labels, **commands.wishes(args))
    meter = None
    if args.compute_fvd and rank() == 0:
        meter = fvd_meter(args, sampler.clip_shape, sampler.device)
    outputs = Outputs(grids=args.save_videos)
    commands.sample_and_print(sampler, args, argv, outputs, meter=meter)


if __name__ == "__main__":
    main()
