"""Sample long videos in two steps: key frames, then the frames between them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tats import commands
from tats.errors import one_line_errors
from tats.evaluation.fvd import fvd_meter, like_sampled
from tats.flags import add_hierarchical_sampling_flags, check_hierarchical_args, new_parser
from tats.sampling import TokenFilter
from tats.sampling.ranks import rank
from tats.sampling.run_files import Outputs


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample long videos: key frames first, then the frames between them.")
    add_hierarchical_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips into ``--save`` and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    check_hierarchical_args(args)
    tats = commands.load(
        args,
        words=commands.HIERARCHICAL_WORDS,
        gpt=args.ckpt1,
        interpolation=args.ckpt2,
        vqgan=args.vqgan,
    )
    labels = commands.chosen_classes(args, tats)
    commands.check_resolution(args, tats)
    first = TokenFilter(args.top_k_init, args.top_p_init, args.temperature)
    sampler = tats.sampler(
        label=labels,
        n_latent_frames=args.sample_length + 1,
        context=args.temporal_sample_pos,
        first_filter=first,
        interpolation=args.interpolation,
        **commands.wishes(args),
    )
    meter = None
    if args.compute_fvd and rank() == 0:
        real = like_sampled(args, sampler.clip_shape)
        meter = fvd_meter(real, sampler.clip_shape, sampler.device)
    commands.sample_and_print(sampler, args, argv, Outputs(grids=True), meter=meter)


if __name__ == "__main__":
    main()
