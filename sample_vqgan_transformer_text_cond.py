"""Sample videos of what captions say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tats import commands
from tats.errors import one_line_errors
from tats.flags import add_text_sampling_flags, check_sampling_args, new_parser
from tats.sampling.run_files import Outputs
from tats.sampling.text_to_video import read_captions


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample videos conditioned on text.")
    add_text_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips of every caption and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    check_sampling_args(args)
    captions = read_captions(args.text, args.text_file)
    tats = commands.load(args, gpt=args.gpt_ckpt, vqgan=args.vqgan_ckpt)
    sampler = tats.sampler(text=captions, **commands.wishes(args))
    n_sample = args.n_sample * len(captions)
    commands.sample_and_print(sampler, args, argv, Outputs(videos=True), n_sample=n_sample)


if __name__ == "__main__":
    main()
