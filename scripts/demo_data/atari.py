"""Clips of Atari 2600 games with the sound the console makes, from the package ale-py.

The games are for trying things out: their licence is not stated, so clips of them are made where
they are needed and not passed on.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from demo_data.clips import SPLITS, Clip, Recording, clips_per_split
from tats.errors import UserError
from tats.video_io import Sound

PACKAGE = "ale-py==0.12.1"
# Games in which something is heard most of the time, and sounds of their own.
ATARI_GAMES = (
    "asteroids", "beam_rider", "centipede", "demon_attack", "enduro", "ms_pacman",
    "phoenix", "riverraid", "seaquest", "space_invaders", "tennis", "yars_revenge",
)  # fmt: skip
CONSOLE_FPS, SAMPLES_PER_CONSOLE_FRAME = 60, 512
SOUND_RATE = CONSOLE_FPS * SAMPLES_PER_CONSOLE_FRAME  # Hz
FRAME_STEP = 2  # clips have every second frame of the console: 30 a second
MIN_WARM_UP, MAX_WARM_UP = 120, 900  # console frames played before a clip begins
HOLD = (6, 24)  # console frames a move is held
LEVEL_WINDOW = 2049  # samples over which the sound's own level, always above zero, is averaged


def import_atari() -> Any:
    """Import the console.

    Raises:
        UserError: it is not installed.
    """
    try:
        import ale_py
        import ale_py.roms
    except ImportError as error:
        raise UserError(
            f"--source atari: the games cannot be imported ({error}); run pip install --no-deps "
            f"{PACKAGE}, or take another --source"
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


def atari_clips(args: argparse.Namespace) -> Iterator[Clip]:
    """List the clips to play, each with moves of its own; the game's name is the class."""
    ale_py = import_atari()
    for split, n_clips in zip(SPLITS, clips_per_split(args), strict=True):
        for game in args.atari_games:
            for number in range(n_clips):
                seeds = [args.seed, ATARI_GAMES.index(game), SPLITS.index(split), number]
                play = functools.partial(
                    play_atari, ale_py, game, seeds, n_frames=args.frames, size=args.size
                )
                yield Clip(split, game, number, play)


def play_atari(ale_py: Any, game: str, seeds: list[int], *, n_frames: int, size: int) -> Recording:
    """Play a game by random moves and record its end.

    Args:
        ale_py: what ``import_atari`` returned.
        game: which one.
        seeds: of the moves and of the console.
        n_frames: of the clip.
        size: of the frames in pixels; the picture is squeezed to a square.

    Returns:
        ``n_frames`` frames at 30 a second, with their sound.
    """
    generator = np.random.default_rng(seeds)
    console = ale_py.ALEInterface()
    console.setBool("sound_obs", True)
    console.setInt("random_seed", int(generator.integers(2**31)))
    console.loadROM(ale_py.roms.get_rom_path(game))
    moves = console.getMinimalActionSet()
    warm_up = int(generator.integers(MIN_WARM_UP, MAX_WARM_UP))
    pictures, sounds = [], []
    move, hold = moves[0], 0
    for step in range(warm_up + n_frames * FRAME_STEP):
        if console.game_over():
            console.reset_game()
        if hold <= 0:
            move, hold = moves[generator.integers(len(moves))], int(generator.integers(*HOLD))
        hold -= 1
        console.act(move)
        if step >= warm_up:
            pictures.append(console.getScreenRGB().copy())
            sounds.append(console.getAudio().copy())
    # Sprites flicker: many are drawn in every second frame only.
    pairs = np.stack(pictures).reshape(n_frames, FRAME_STEP, *pictures[0].shape).max(axis=1)
    frames = [Image.fromarray(pair).resize((size, size), Image.Resampling.BOX) for pair in pairs]
    return Recording(
        frames=np.stack([np.asarray(frame) for frame in frames]),
        sound=console_sound(np.concatenate(sounds)),
        fps=CONSOLE_FPS / FRAME_STEP,
    )


def console_sound(levels: np.ndarray) -> Sound:
    """Turn the console's unsigned samples, uint8 (n,), into sound around zero."""
    levels = levels.astype(np.float64) / 128
    half = LEVEL_WINDOW // 2
    sums = np.cumsum(np.pad(np.pad(levels, half, mode="edge"), (1, 0)))
    samples = levels - (sums[LEVEL_WINDOW:] - sums[:-LEVEL_WINDOW]) / LEVEL_WINDOW
    return Sound(samples.clip(-1, 1).astype(np.float32), SOUND_RATE)
