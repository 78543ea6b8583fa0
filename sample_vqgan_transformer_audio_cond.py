"""Sample videos to sounds: those of a data set's test clips, or of any file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tats import commands
from tats.errors import one_line_errors
from tats.flags import add_audio_sampling_flags, check_sampling_args, new_parser
from tats.sampling.run_files import Outputs
from tats.sampling.sound_to_video import HeldOutClips, SoundFile, SoundSource


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Sample videos conditioned on sound, beside the real ones and with sound.")
    add_audio_sampling_flags(parser)
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Sample a clip of every sound, or ``--n_sample``, and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    check_sampling_args(args)
    tats = commands.load(
        args, gpt=args.gpt_ckpt, vqgan=args.vqgan_ckpt, stft_vqgan=args.stft_vqgan_ckpt
    )
    n_frames, height, _ = tats.clip_shape
    window = {"n_frames": n_frames, "resolution": height}
    source: SoundSource
    if args.audio:
        source = SoundFile(Path(args.audio).expanduser(), **window)
    else:
        source = HeldOutClips(Path(args.data_path).expanduser(), seed=args.seed, **window)
    sampler = tats.sampler(audio=source, **commands.wishes(args))
    n_sample = args.n_sample or len(source)
    commands.sample_and_print(sampler, args, argv, Outputs(videos=True), n_sample=n_sample)


if __name__ == "__main__":
    main()
