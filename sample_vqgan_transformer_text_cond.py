"""Sample videos of what captions say."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence

import numpy as np

from tats.data.sound import FRAME_RATE
from tats.errors import one_line_errors
from tats.flags import add_text_sampling_flags, check_sampling_args, new_parser
from tats.models.transformer import load_transformer
from tats.sampling.conditional import read_captions, text_sampler, write_clips
from tats.sampling.outputs import command_line, output_folder, sample_indices, write_samples
from tats.sampling.samplers import place_model


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample videos conditioned on text.")
    add_text_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips of every caption and print one line of JSON about them."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    args = build_parser().parse_args(argv)
    check_sampling_args(args)
    captions = read_captions(args)
    args.n_sample *= len(captions)
    args.save_videos = False  # these clips are written one by one
    with output_folder(args) as folder:
        model = load_transformer(args.gpt_ckpt, args.vqgan_ckpt)
        fps = FRAME_RATE / model.args.sample_every_n_frames
        sampler = text_sampler(args, place_model(model, args.device, args.precision), captions)
        indices = sample_indices(args)
        args.conditions = [captions[index % len(captions)] for index in indices]
        result = write_samples(
            sampler,
            args,
            folder,
            argv=command_line(argv),
            checkpoints=[args.gpt_ckpt, args.vqgan_ckpt],
        )
        if result is not None:
            clips = np.load(result["clips"], mmap_mode="r")
            videos = write_clips(folder, clips, indices, fps=fps)
            print(json.dumps({**result, "videos": str(videos), "captions": captions}))


if __name__ == "__main__":
    main()
