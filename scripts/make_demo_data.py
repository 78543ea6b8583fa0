#!/usr/bin/env python
"""Make a small data set of real moving pictures, to try everything without a download of days.

    python scripts/make_demo_data.py --out data/demo                        # 16 games, 16 classes
    python scripts/make_demo_data.py --out data/films --source films        # three sample films
    python scripts/make_demo_data.py --out data/mine --videos a.mp4 b.mp4   # cut your own videos
    python scripts/make_demo_data.py --out data/atari --source atari        # games with sound
    python scripts/make_demo_data.py --out data/mugen --mugen               # games with captions

Run again, it continues where it stopped. The games are procgen's, played by a clumsy but lively
random player; training and test clips come from different levels, or different parts of a film.
``--source atari`` plays games of a console that sounds, ``--with_sound`` keeps the sound of films;
``scripts/prepare_audioset_drums.py`` adds their spectrograms. ``--mugen`` simulates games of
MUGEN's kind, whose pictures and captions are made when they are read.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from demo_data.atari import ATARI_GAMES, atari_clips
from demo_data.clips import SPLITS, Clip
from demo_data.films import fetch_films, film_clips
from demo_data.games import GAMES, GAMES_PACKAGES, game_clips, import_games
from demo_data.mugen import make_mugen
from demo_data.storing import LAYOUTS, store_folders, store_hdf5

from tats.errors import UserError, one_line_errors
from tats.paths import atomic_path

logger = logging.getLogger("make_demo_data")


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Make a small video data set: games, sample films, or cuts of your own videos.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to make the data set in")
    sources = ("games", "films", "atari")
    add("--source", choices=sources, help="default: games, or films without procgen")
    add("--mugen", action="store_true", help="simulate MUGEN games: OUT/coinrun/{train,test}")
    add("--games", nargs="+", choices=GAMES, default=list(GAMES), help="games to play")
    add("--videos", nargs="+", type=Path, help="videos to cut; the file's name is the class")
    add("--atari_games", nargs="+", choices=ATARI_GAMES, default=list(ATARI_GAMES), help="to play")
    add("--with_sound", action="store_true", help="keep the films' sound and frame rate")
    add("--layout", choices=LAYOUTS, default="class_folders", help="how the clips are stored")
    add("--clips_per_class", type=int, default=40, help="[clips] of the training split, at most")
    add("--test_clips_per_class", type=int, default=8, help="[clips] of the test split, at most")
    add("--frames", type=int, default=64, help="[frames] length of a clip")
    add("--fps", type=float, default=15, help="[frames/s] speed the clips are stored with")
    add("--size", type=int, default=64, help="[pixels] shorter side of a clip")
    add("--seed", type=int, default=0, help="seed of levels and moves")
    return parser


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
        changed = [f"--{key}" for key in settings if settings[key] != other.get(key, settings[key])]
        if changed:
            raise UserError(
                f"--out {args.out} holds demo data made with another {', '.join(changed)}; choose "
                "another folder, or delete that one"
            )
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def choose_source(args: argparse.Namespace) -> str:
    """Decide between games with and without sound, films and the user's videos.

    Raises:
        UserError: the games are asked for and cannot be had, or several sources are.
    """
    if (args.videos is not None) + (args.source is not None) + args.mugen > 1:
        raise UserError("--videos, --source and --mugen exclude each other; choose one")
    if args.videos:
        return "videos"
    if args.mugen:
        return "mugen"
    if args.source in ("films", "atari"):
        return str(args.source)
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
    if source == "atari":
        return list(atari_clips(args))
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
    if source == "mugen":
        remember_settings(args, source)
        print(json.dumps({**make_mugen(args), "seconds": round(time.monotonic() - started, 1)}))
        return
    if args.layout != "class_folders" and (source == "atari" or args.with_sound):
        raise UserError(f"--layout got {args.layout}; expected class_folders, which have sound")
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
