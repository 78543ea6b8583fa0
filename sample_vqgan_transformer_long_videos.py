"""Sample videos longer than the training clips, by a sliding window."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tats import commands
from tats.errors import one_line_errors
from tats.flags import add_long_sampling_flags, check_sampling_args, new_parser
from tats.sampling.run_files import Outputs


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample videos longer than the training clips, by a sliding window.")
    add_long_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips into ``--save`` and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    check_sampling_args(args)
    tats = commands.load(args, gpt=args.gpt_ckpt, vqgan=args.vqgan_ckpt)
    labels = commands.chosen_classes(args, tats)
    commands.check_resolution(args, tats)
    sampler = tats.sampler(
        label=labels,
        n_latent_frames=args.sample_length,
        context=args.temporal_sample_pos,
        sliding=True,
        **commands.wishes(args),
    )
    outputs = Outputs(grids=args.save_videos, frames=args.save_videos)
    commands.sample_and_print(sampler, args, argv, outputs)


if __name__ == "__main__":
    main()
