"""Simulated MUGEN games: the game files from which pictures, maps and captions are made."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from demo_data.clips import SPLITS, clips_per_split
from tats.data.mugen.simulate import simulate_game
from tats.paths import atomic_path

FOLDER = "coinrun"  # by this word in its name the readers know MUGEN's layout


def make_mugen(args: argparse.Namespace) -> dict[str, Any]:
    """Write ``OUT/coinrun/{train,test}/*.json``, one game each.

    Args:
        args: out, frames, seed, clips_per_class, test_clips_per_class.

    Returns:
        What was made.
    """
    counts = dict(zip(SPLITS, clips_per_split(args), strict=True))
    files = [
        (args.out / FOLDER / split / f"game_{number:05d}.json", [args.seed, SPLITS.index(split)])
        for split, count in counts.items()
        for number in range(count)
    ]
    n_new = 0
    for number, (path, seeds) in enumerate(tqdm(files, desc="games", unit="game")):
        if not path.exists():
            write_game(path, simulate_game(game_seed(*seeds, number), args.frames))
            n_new += 1
    return {
        "data_path": str(args.out / FOLDER),
        "source": "mugen",
        **{f"{split}_clips": count for split, count in counts.items()},
        "new_clips": n_new,
    }


def game_seed(seed: int, split: int, number: int) -> int:
    """Give every game of every data set a seed of its own; the splits share none."""
    return (seed * 1_000_000 + number) * len(SPLITS) + split


def write_game(path: Path, record: dict[str, Any]) -> None:
    """Write one game file."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, separators=(",", ":")), encoding="utf-8")
