"""A small simulator of MUGEN-like games: writes game records for demos and tests.

The agent walks, jumps over lava and onto crates and platforms, climbs ladders, collects coins and
gems, kills monsters by landing on them and is killed by touching them. The physics are simple:
one body per creature, constant gravity, lengths in cells, times in frames. A seed fixes a game.
"""

from __future__ import annotations

import random
from typing import Any

from tats.data.mugen.game import COIN, GEM
from tats.data.mugen.levels import HEIGHT, WIDTH, make_level
from tats.data.mugen.player import Player
from tats.data.mugen.world import DEATH_FRAMES, MONSTER_NAMES, Monster, World
from tats.errors import UserError

BACKGROUNDS = tuple(
    f"backgrounds/{name}.png" for name in ("meadow", "dusk", "dunes", "night", "frost")
)
GROUND_THEMES = ("Grass", "Planet", "Sand", "Stone", "Snow")  # one for each background
AGENT_THEMES = ("Beige", "Blue", "Green", "Pink", "Yellow")
ZOOM, BACKGROUND_ZOOM = 5.5, 0.4
_VIDEO_RESOLUTION = 1024  # of the published recordings; nothing is rendered at it here
_SHOWN_DEATH_FRAMES = 24  # a clip ends while the killed agent fades
_MAX_WARM_UP = 120  # frames played before the clip starts
_N_DANGEROUS_TRIES = 20  # after that many early deaths the level has no enemies


def simulate_game(seed: int, n_frames: int) -> dict[str, Any]:
    """Play one game and record its last frames.

    Args:
        seed: equal seeds give equal games.
        n_frames: length of the record at 30 frames a second, at least 1.

    Returns:
        A record as MUGEN's game files hold it, ready for ``json.dump`` and
        ``Game.from_record``. If the agent is killed, that is the end of the record.

    Raises:
        UserError: ``n_frames`` is not positive.
    """
    if n_frames < 1:
        raise UserError(f"the number of frames is {n_frames}; expected at least 1")
    attempt = 0
    while True:
        rng = random.Random(f"{seed}/{attempt}")
        level = make_level(rng)
        maze = level.rows()  # as it was before anything was eaten
        world = World(level=level, rng=rng, peaceful=attempt >= _N_DANGEROUS_TRIES)
        frames = _play(world, rng, n_frames + rng.randrange(_MAX_WARM_UP))
        if len(frames) >= n_frames:
            return _record(seed, rng, maze, frames[-n_frames:])
        attempt += 1


def _play(world: World, rng: random.Random, n_frames: int) -> list[dict[str, Any]]:
    player = Player(rng=rng)
    frames: list[dict[str, Any]] = []
    while len(frames) < n_frames:
        frames.append(_frame(world))
        if world.agent.is_killed and world.agent.death_count <= DEATH_FRAMES - _SHOWN_DEATH_FRAMES:
            break
        world.step(player.control(world))
    return frames


def _record(
    seed: int, rng: random.Random, maze: list[str], frames: list[dict[str, Any]]
) -> dict[str, Any]:
    for i, frame in enumerate(frames):
        frame["frame_id"] = i
        frame["file_name"] = f"{i:05d}.png"
    return {
        "game_id": seed,
        "level_seed": seed,
        "rl_agent_seed": seed,
        "zoom": ZOOM,
        "bgzoom": BACKGROUND_ZOOM,
        "world_theme_n": rng.randrange(len(BACKGROUNDS)),
        "agent_theme_n": rng.randrange(len(AGENT_THEMES)),
        "background_themes": list(BACKGROUNDS),
        "ground_themes": list(GROUND_THEMES),
        "agent_themes": list(AGENT_THEMES),
        "monster_names": {kind: list(names) for kind, names in MONSTER_NAMES.items()},
        "video_res": _VIDEO_RESOLUTION,
        "maze_w": WIDTH,
        "maze_h": HEIGHT,
        "maze": maze,
        "frames": frames,
    }


def _frame(world: World) -> dict[str, Any]:
    agent = world.agent
    return {
        "state_time": world.time,
        "coins_eaten": [list(place) for place in world.eaten],
        "agent": {
            "x": round(agent.x, 4),
            "y": round(agent.y, 4),
            "vx": round(agent.vx, 4),
            "vy": round(agent.vy, 4),
            "time_alive": world.time,
            "ladder": agent.on_ladder,
            "spring": int(agent.ducking),
            "is_killed": agent.is_killed,
            "killed_animation_frame_cnt": agent.death_count,
            "finished_level_frame_cnt": 0,
            "killed_monster": world.events.killed_monster,
            "bumped_head": world.events.bumped_head,
            "collected_coin": world.events.collected == COIN,
            "collected_gem": world.events.collected == GEM,
            "power_up_mode": agent.shielded,
            "anim_freq": 5,
        },
        "monsters": [_monster(i, monster, world.time) for i, monster in enumerate(world.monsters)],
    }


def _monster(i: int, monster: Monster, time: int) -> dict[str, Any]:
    return {
        "m_id": i,
        "x": round(monster.x, 4),
        "y": round(monster.y, 4),
        "vx": round(monster.vx, 4),
        "vy": round(monster.vy, 4),
        "theme": monster.theme,
        "is_flying": monster.kind == "flying",
        "is_walking": monster.kind == "walking",
        "is_jumping": monster.hops,
        "is_dead": monster.is_dead,
        "time": time,
        "anim_freq": monster.anim_freq,
        "monster_dying_frame_cnt": monster.dying_count,
    }
