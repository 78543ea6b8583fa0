"""Sample videos longer than the training clips, by a sliding window."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from tats.errors import one_line_errors
from tats.flags import add_long_sampling_flags, check_sampling_args, new_parser
from tats.models.transformer import load_transformer
from tats.sampling.outputs import command_line, output_folder, write_samples
from tats.sampling.samplers import long_sampler, place_model


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
    with output_folder(args) as folder:
        model = load_transformer(args.gpt_ckpt, args.vqgan_ckpt)
        model = place_model(model, args.device, args.precision)
        sampler = long_sampler(args, model, args.sample_resolution)
        result = write_samples(
            sampler,
            args,
            folder,
            argv=command_line(argv),
            checkpoints=[args.gpt_ckpt, args.vqgan_ckpt],
            save_frames=True,
        )
    if result is not None:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
