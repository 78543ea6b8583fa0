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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tats.errors import UserError, one_line_errors
from tats.models.transformer import NOT_THE_GPTS
from tats.models.vqgan import TRAINING_PREFIXES
from tats.paths import atomic_path
from tats.weights.checkpoint import check_values, read_checkpoint, without
from tats.weights.checkpoint_files import SLIM_SUFFIX

NOT_NEEDED = {"vqgan": TRAINING_PREFIXES, "transformer": NOT_THE_GPTS}


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Keep a checkpoint's weights and settings, and leave out the rest."
    )
    parser.add_argument("checkpoint", help="a .ckpt of either stage, or a released one's name")
    parser.add_argument("out", help=f"the weights' file, ending in {SLIM_SUFFIX}")
    return parser


def plain_settings(hyper_parameters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn a checkpoint's settings into what JSON can hold.

    Returns:
        The settings, flags of the run under "args"; names of those that no text can hold.
    """
    args = hyper_parameters.get("args", {})
    args = args if isinstance(args, Mapping) else vars(args)
    kept, left_out = {}, []
    for name, value in sorted(args.items()):
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            left_out.append(name)
        else:
            kept[name] = value
    others = {k: v for k, v in hyper_parameters.items() if k != "args" and _is_plain(v)}
    return {**others, "args": kept}, left_out


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, list, dict, type(None)))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the pair of files and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    out = Path(args.out)
    if out.suffix != SLIM_SUFFIX:
        raise UserError(f"out: got {out}; expected a file name ending in {SLIM_SUFFIX}")
    checkpoint = read_checkpoint(args.checkpoint, flag="checkpoint", stage=None)
    if out.exists() and out.samefile(checkpoint.path):
        raise UserError(f"out: got {out}, the checkpoint itself; expected another file")
    state, source = checkpoint.state_dict, str(checkpoint.path)
    weights = without(state, NOT_NEEDED[checkpoint.stage], source=source)
    check_values(weights, source=source)
    settings, left_out = plain_settings(checkpoint.hyper_parameters)
    with atomic_path(out.with_suffix(".json")) as settings_file, atomic_path(out) as weights_file:
        settings_file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        mode = weights_file.stat().st_mode
        save_file(
            {name: weight.contiguous() for name, weight in weights.items()},
            weights_file,
            {"source": checkpoint.path.name},
        )
        weights_file.chmod(mode)  # save_file's files are private
    result = {
        "weights": str(out),
        "settings": str(out.with_suffix(".json")),
        "stage": checkpoint.stage,
        "bytes_before": checkpoint.path.stat().st_size,
        "bytes_after": out.stat().st_size,
        "weights_kept": len(weights),
        "weights_left_out": len(state) - len(weights),
        "settings_left_out": left_out,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
