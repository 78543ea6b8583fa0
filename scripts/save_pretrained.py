#!/usr/bin/env python
"""Put a trained model into one folder: weights as safetensors, settings as readable JSON.

    python scripts/save_pretrained.py --gpt GPT.ckpt --vqgan VQGAN.ckpt --out FOLDER

``TATS.from_pretrained("FOLDER")`` loads it, wherever the folder is moved to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from tats import TATS
from tats.errors import one_line_errors

PARTS = {
    "gpt": "the transformer",
    "vqgan": "its VQGAN",
    "stft_vqgan": "the STFT-VQGAN of a sound-conditioned transformer",
    "interpolation": "the second transformer of a hierarchical pair",
}


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(description="Put a trained model into one folder.")
    for part, meaning in PARTS.items():
        needed = part in ("gpt", "vqgan")
        parser.add_argument(f"--{part}", required=needed, help=f"checkpoint of {meaning}")
    parser.add_argument("--out", required=True, help="folder; made if missing")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Load the checkpoints, save the folder, and print one line of JSON about it."""
    args = vars(build_parser().parse_args(argv))
    folder = args.pop("out")
    TATS.from_pretrained(**args).save_pretrained(folder)
    print(json.dumps({"folder": folder, "parts": [part for part in PARTS if args[part]]}))


if __name__ == "__main__":
    main()
