"""Frames and semantic maps of MUGEN games rendered a second, on one core, with warm sprites.

The baseline of the same run renders without keeping sprites from frame to frame, as a renderer
without a cache would. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import PIL
import records
import torch

from tats.data.mugen import Game, Renderer, simulate_game
from tats.errors import UserError, one_line_errors

N_BASELINE_FRAMES = 2  # each takes a good part of a second


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=256, help="[pixels] side of a picture")
    parser.add_argument("--coinrun_assets", default=None, help="sprite folder; default: drawn")
    parser.add_argument("--n_games", type=int, default=4, help="simulated games")
    parser.add_argument("--n_frames", type=int, default=96, help="[frames] length of a game")
    parser.add_argument("--n_repeats", type=int, default=5, help="timed passes over all games")
    parser.add_argument("--no_record", action="store_true", help="do not append to RECORDS.md")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Time both kinds of picture and print the rates."""
    args = build_parser().parse_args(argv)
    for name in ("n_games", "n_frames", "n_repeats"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} got {getattr(args, name)}; expected at least 1")
    games = [Game.from_record(simulate_game(s, args.n_frames)) for s in range(args.n_games)]
    renderer = Renderer(args.resolution, args.coinrun_assets)

    def fresh_frame(game: Game, i: int) -> object:
        return Renderer(args.resolution, args.coinrun_assets).frame(game, i)

    baseline_game = Game.from_record(simulate_game(0, N_BASELINE_FRAMES))
    result = {
        "resolution": args.resolution,
        "frames_per_second": frames_per_second(renderer.frame, games, args.n_repeats),
        "maps_per_second": frames_per_second(renderer.semantic_map, games, args.n_repeats),
        "baseline_without_kept_sprites": frames_per_second(fresh_frame, [baseline_game], 2),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "machine": platform.machine(),
    }
    print(json.dumps(result))
    if not args.no_record:
        torch.set_num_threads(1)  # what rendering works on, for the record
        names = ("frames_per_second", "maps_per_second", "baseline_without_kept_sprites")
        rates = {name: result[name] for name in names}
        records.append(torch.device("cpu"), {name: _shown(rate) for name, rate in rates.items()})


def _shown(rate: object) -> str:
    assert isinstance(rate, dict)
    return f"{rate['median']} ({rate['lowest']}–{rate['highest']}) /s"


def frames_per_second(
    paint: Callable[[Game, int], object], games: Sequence[Game], n_repeats: int
) -> dict[str, float]:
    """Time painting every frame of every game.

    Args:
        paint: paints frame i of a game.
        games: what is painted.
        n_repeats: timed passes, after one that is not timed.

    Returns:
        Median, lowest and highest rate of the passes, in frames a second.
    """
    rates = []
    for repeat in range(n_repeats + 1):
        start = time.perf_counter()
        for game in games:
            for i in range(game.n_frames):
                paint(game, i)
        if repeat > 0:
            rates.append(sum(game.n_frames for game in games) / (time.perf_counter() - start))
    return {
        "median": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
    }


if __name__ == "__main__":
    main()
