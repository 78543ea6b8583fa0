"""Sample videos to sounds: those of a data set's test clips, or of any file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np

from tats.data.sound import FRAME_RATE
from tats.errors import one_line_errors
from tats.flags import add_audio_sampling_flags, check_sampling_args, new_parser
from tats.models.transformer import load_transformer
from tats.sampling.conditional import sound_sampler, sound_windows, write_clips
from tats.sampling.outputs import command_line, output_folder, sample_indices, write_samples
from tats.sampling.samplers import place_model


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample videos conditioned on sound, beside the real ones and with sound.")
    add_audio_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample ``--n_sample`` clips into ``--save`` and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    check_sampling_args(args)
    args.save_videos = False  # these clips are written one by one, with their sound
    with output_folder(args) as folder:
        model = load_transformer(args.gpt_ckpt, args.vqgan_ckpt, args.stft_vqgan_ckpt)
        windows = sound_windows(args, model)
        if args.n_sample is None:
            args.n_sample = len(windows)
        sampler = sound_sampler(args, place_model(model, args.device, args.precision), windows)
        indices = sample_indices(args)
        args.conditions = [windows(index).name for index in indices]
        result = write_samples(
            sampler,
            args,
            folder,
            argv=command_line(argv),
            checkpoints=[args.gpt_ckpt, args.vqgan_ckpt, args.stft_vqgan_ckpt],
        )
        if result is not None:
            clips = np.load(result["clips"], mmap_mode="r")
            videos = write_clips(folder, clips, indices, fps=FRAME_RATE, windows=windows)
            print(json.dumps({**result, "videos": str(videos)}))


if __name__ == "__main__":
    main()
