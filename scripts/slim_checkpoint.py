#!/usr/bin/env python
"""Make a small, plain copy of a checkpoint: its weights and its settings, and nothing else.

    python scripts/slim_checkpoint.py IN.ckpt OUT.safetensors

``OUT.safetensors`` holds the weights the model is used with, ``OUT.json`` its settings; whatever
takes a checkpoint takes ``OUT.safetensors``. Left out: what only training needs (discriminators,
perceptual model, optimiser states), the released transformers' masks, and their copies of the
VQGANs, which are files of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tats.errors import UserError, one_line_errors
from tats.models.transformer import NOT_THE_GPTS
from tats.models.vqgan import TRAINING_PREFIXES
from tats.weights.checkpoint import read_checkpoint, without, write_slim

NOT_NEEDED = {"vqgan": TRAINING_PREFIXES, "transformer": NOT_THE_GPTS}


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Keep a checkpoint's weights and settings, and leave out the rest."
    )
    parser.add_argument("checkpoint", help="a .ckpt of either stage, or a released one's name")
    parser.add_argument("out", type=Path, help="the weights' file, ending in .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the pair of files and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    checkpoint = read_checkpoint(args.checkpoint, flag="checkpoint", stage=None)
    path, state = checkpoint.path, checkpoint.state_dict
    if args.out.exists() and args.out.samefile(path):
        raise UserError(f"out: got {args.out}, the checkpoint itself; expected another file")
    weights = without(state, NOT_NEEDED[checkpoint.stage], source=str(path))
    settings = checkpoint.hyper_parameters
    left_out = write_slim(args.out, weights, settings, source=str(path), overwrite=args.overwrite)
    result = {
        "weights": str(args.out),
        "settings": str(args.out.with_suffix(".json")),
        "stage": checkpoint.stage,
        "bytes_before": path.stat().st_size,
        "bytes_after": args.out.stat().st_size,
        "weights_kept": len(weights),
        "weights_left_out": len(state) - len(weights),
        "settings_left_out": left_out,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
