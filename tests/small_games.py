"""Small recorded games, built by hand, shared by tests."""

from __future__ import annotations

import copy
from typing import Any

WIDTH, HEIGHT = 64, 13
MONSTERS = ("sawHalf", "barnacle", "slimeBlock", "bee")

AGENT = {
    "x": 10.0,
    "y": 2.0,
    "vx": 0.0,
    "vy": 0.0,
    "time_alive": 0,
    "ladder": False,
    "spring": 0,
    "is_killed": False,
    "killed_animation_frame_cnt": 0,
    "power_up_mode": False,
}
MONSTER = {
    "x": 30.0,
    "y": 2.0,
    "vx": 0.0,
    "vy": 0.0,
    "theme": 2,
    "is_jumping": False,
    "is_dead": False,
    "time": 0,
    "anim_freq": 5,
    "monster_dying_frame_cnt": 0,
}


def maze(**cells: str) -> list[str]:
    """Ground at row 1 between walls; ``x12y3="1"`` puts a character into cell (12, 3)."""
    rows = [["A"] * WIDTH, ["A", *["S"] * (WIDTH - 2), "A"]]
    rows += [["A", *["."] * (WIDTH - 2), "A"] for _ in range(HEIGHT - 3)]
    rows += [["A"] * WIDTH]
    for place, character in cells.items():
        x, y = place[1:].split("y")
        rows[int(y)][int(x)] = character
    return ["".join(row) for row in rows]


def frame(
    agent: dict[str, Any] | None = None,
    monsters: tuple[dict[str, Any], ...] = (),
    coins_eaten: tuple[tuple[int, int], ...] = (),
) -> dict[str, Any]:
    """One frame; the dictionaries say what differs from a standing agent and monster."""
    return {
        "state_time": 0,
        "coins_eaten": [list(place) for place in coins_eaten],
        "agent": {**AGENT, **(agent or {})},
        "monsters": [{**MONSTER, **monster} for monster in monsters],
    }


def record(frames: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A whole game file's content."""
    game = {
        "world_theme_n": 0,
        "agent_theme_n": 0,
        "background_themes": ["backgrounds/meadow.png"],
        "ground_themes": ["Grass"],
        "agent_themes": ["Yellow"],
        "monster_names": {
            "ground": list(MONSTERS[:2]),
            "walking": [MONSTERS[2]],
            "flying": [MONSTERS[3]],
        },
        "maze": maze(),
        "frames": frames,
    }
    return {**game, **copy.deepcopy(changes)}


def walk(x: float, to: float, n_frames: int, **agent: Any) -> list[dict[str, Any]]:
    """Agents that walk evenly from just past ``x`` to ``to``."""
    step = (to - x) / n_frames
    return [{"x": x + step * (i + 1), "vx": step, **agent} for i in range(n_frames)]


def jump(x: float, to: float, n_frames: int, y: float = 2.0, end_y: float | None = None):
    """Agents in the air from ``x`` to ``to``; the last one is still in the air."""
    end_y = y if end_y is None else end_y
    step = (to - x) / n_frames
    heights = [y + (end_y - y) * (i + 1) / n_frames for i in range(n_frames)]
    return [
        {"x": x + step * (i + 1), "y": heights[i], "vx": step, "vy": 0.1} for i in range(n_frames)
    ]
