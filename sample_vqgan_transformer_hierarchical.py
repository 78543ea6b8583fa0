"""Sample long videos in two steps: key frames, then the frames between them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from tats.errors import one_line_errors
from tats.evaluation.fvd import fvd_meter, like_sampled
from tats.flags import (
    add_hierarchical_sampling_flags,
    check_hierarchical_args,
    new_parser,
)
from tats.models.transformer import load_transformer
from tats.sampling.outputs import command_line, output_folder, write_samples
from tats.sampling.ranks import rank
from tats.sampling.samplers import hierarchical_sampler, place_model


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample long videos: key frames first, then the frames between them.")
    add_hierarchical_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips into ``--save`` and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    args.save_videos = True
    check_hierarchical_args(args)
    with output_folder(args) as folder:
        key_model, fill_model = (
            place_model(load_transformer(path, args.vqgan), args.device, args.precision)
            for path in (args.ckpt1, args.ckpt2)
        )
        sampler = hierarchical_sampler(args, key_model, fill_model, args.sample_resolution)
        meter = None
        if args.compute_fvd and rank() == 0:
            real = like_sampled(args, sampler.clip_shape)
            meter = fvd_meter(real, sampler.clip_shape, sampler.device)
        result = write_samples(
            sampler,
            args,
            folder,
            argv=command_line(argv),
            checkpoints=[args.ckpt1, args.ckpt2, args.vqgan],
            meter=meter,
        )
    if result is not None:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
