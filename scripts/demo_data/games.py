"""Clips of procgen's sixteen games, played by a clumsy but lively random player."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from demo_data.clips import SPLITS, Clip, Recording, clips_per_split

GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip
GAMES_PACKAGES = (
    "procgen-mirror gym3 gym==0.26.2 gym-notices glcontext cloudpickle moderngl cffi pycparser"
)
GAME_SIZE, LARGE_GAME_SIZE = 64, 512  # pixels; the games draw these two
MAX_EPISODES = 20  # played on one level before another one is tried
WARM_UP = 8  # frames at the start of an episode in which little happens
# The player's moves in procgen's numbering, the favourites of each game more than once.
LEFT, DOWN, STAY, UP, RIGHT, RIGHT_UP, FIRE = 1, 3, 4, 5, 7, 8, 9
ANY_MOVE = (LEFT, DOWN, UP, RIGHT, FIRE)
RUN_RIGHT = (RIGHT, RIGHT, RIGHT_UP, RIGHT_UP, RIGHT_UP, LEFT)
MOVES = {
    "bossfight": (LEFT, RIGHT, FIRE, FIRE),
    "climber": (UP, 2, RIGHT_UP, LEFT, RIGHT),
    "coinrun": RUN_RIGHT,
    "fruitbot": (LEFT, RIGHT, STAY),
    "jumper": RUN_RIGHT,
    "leaper": (UP, UP, LEFT, RIGHT, STAY),
    "ninja": RUN_RIGHT,
    "plunder": (LEFT, RIGHT, FIRE, FIRE),
    "starpilot": (LEFT, RIGHT, UP, DOWN, FIRE, FIRE),
}


def import_games() -> Any:
    """Import procgen's environment class, without the advice that gym prints.

    Raises:
        ImportError: it is not installed, or there is none for this Python.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        from procgen import ProcgenGym3Env
    return ProcgenGym3Env


def game_clips(args: argparse.Namespace) -> Iterator[Clip]:
    """List the clips to play: for every game, each clip on a level of its own."""
    make_game = import_games()
    for split, n_clips in zip(SPLITS, clips_per_split(args), strict=True):
        for game in args.games:
            for number in range(n_clips):
                seeds = [args.seed, GAMES.index(game), SPLITS.index(split), number]
                play = functools.partial(
                    record_clip, make_game, game, split, seeds, n_frames=args.frames, size=args.size
                )
                yield Clip(split, game, number, play)


def record_clip(*arguments: Any, **options: Any) -> Recording:
    """Play a clip as ``play_clip`` does; these games have no sound."""
    return Recording(play_clip(*arguments, **options))


def play_clip(
    make_game: Any, game: str, split: str, seeds: list[int], *, n_frames: int, size: int
) -> np.ndarray:
    """Play until one episode is long enough for a clip without a cut.

    Args:
        make_game: what ``import_games`` returned.
        game: which one.
        split: decides which half of all levels is used.
        seeds: of level and moves.
        n_frames: of the clip.
        size: of the frames in pixels.

    Returns:
        uint8 (n_frames, size, size, 3).
    """
    generator = np.random.default_rng(seeds)
    while True:  # a level that ends at once is given up for another
        level = 2 * int(generator.integers(2**24)) + SPLITS.index(split)
        environment = make_game(
            num=1,
            env_name=game,
            start_level=level,
            num_levels=1,
            rand_seed=level,
            distribution_mode="easy",  # large figures, still visible at 32 pixels
            render_mode="rgb_array" if size > GAME_SIZE else None,
        )
        try:
            frames = play_level(environment, MOVES.get(game, ANY_MOVE), generator, n_frames, size)
        finally:
            environment.close()
        if frames is not None:
            return frames


def play_level(
    environment: Any,
    moves: Sequence[int],
    generator: np.random.Generator,
    n_frames: int,
    size: int,
) -> np.ndarray | None:
    """Record one uncut episode of a level; None if all of ``MAX_EPISODES`` are too short.

    The player holds a move for some frames, and changes it as soon as nothing moves any more.
    """
    frames: list[np.ndarray] = []
    episodes, move, hold = 0, STAY, 0
    while len(frames) < WARM_UP + n_frames:
        _, seen, first = environment.observe()
        if first[0]:
            frames, episodes = [], episodes + 1
            if episodes > MAX_EPISODES:
                return None
        frames.append(game_frame(environment, seen, size))
        stuck = len(frames) > 1 and np.array_equal(frames[-1], frames[-2])
        if hold <= 0 or stuck:
            move, hold = int(generator.choice(moves)), int(generator.integers(3, 12))
        hold -= 1
        environment.act(np.array([move], dtype=np.int32))
    return np.stack(frames[WARM_UP:])


def game_frame(environment: Any, seen: dict[str, np.ndarray], size: int) -> np.ndarray:
    """Get the present frame, uint8 (size, size, 3)."""
    large = size > GAME_SIZE
    frame = environment.get_info()[0]["rgb"] if large else seen["rgb"][0]
    if frame.shape[0] == size:
        return frame.copy()  # the game draws the next frame into the same memory
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))
