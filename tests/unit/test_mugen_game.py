"""Recorded games: reading, checking, and the pictures that states ask for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tats.data.mugen import Game
from tats.data.mugen.game import Monster
from tats.errors import UserError
from tests.small_games import frame, maze, record


def game(agent: dict[str, Any] | None = None, **changes: Any) -> Game:
    return Game.from_record(record([frame(agent)], **changes))


@pytest.mark.parametrize(
    ("agent", "pose"),
    [
        ({}, "stand"),
        ({"vx": 0.1}, "walk1"),
        ({"vx": -0.1, "time_alive": 5}, "walk2"),
        ({"vx": 0.1, "time_alive": 10}, "walk1"),
        ({"spring": 3, "vx": 0.1}, "duck"),
        ({"vy": -0.1, "spring": 3}, "jump"),
        ({"ladder": True, "vy": 0.1}, "climb1"),
        ({"ladder": True, "time_alive": 9}, "climb2"),
        ({"is_killed": True, "ladder": True}, "hit"),
    ],
)
def test_the_first_pose_that_holds_is_shown(agent: dict[str, Any], pose: str) -> None:
    assert game(agent).frames[0].agent.pose == pose


@pytest.mark.parametrize(
    ("changes", "sprite"),
    [
        ({}, "bee"),
        ({"time": 5}, "bee_move"),
        ({"time": 10}, "bee"),
        ({"is_jumping": True, "time": 5}, "bee"),
        ({"is_jumping": True, "vy": 0.2}, "bee_move"),
        ({"is_dead": True, "time": 5}, "bee_dead"),
    ],
)
def test_a_monster_shows_its_state(changes: dict[str, Any], sprite: str) -> None:
    state: dict[str, Any] = {
        "name": "bee", "x": 0, "y": 0, "vx": 0, "vy": 0, "is_jumping": False, "is_dead": False,
        "time": 0, "anim_freq": 5, "monster_dying_frame_cnt": 0,
    }  # fmt: skip
    assert Monster(**{**state, **changes}).sprite == sprite


def test_monsters_are_named_in_the_order_ground_walking_flying() -> None:
    monsters = tuple({"theme": theme} for theme in range(4))
    once = Game.from_record(record([frame(monsters=monsters)]))
    again = Game.from_record(record([frame(monsters=monsters)]))
    names = ["sawHalf", "barnacle", "slimeBlock", "bee"]
    assert [monster.name for monster in once.frames[0].monsters] == names
    assert once == again


def test_absent_zooms_and_sizes_take_the_published_defaults() -> None:
    assert (game().zoom, game().bgzoom, game().maze_w, game().maze_h) == (5.5, 0.4, 64, 13)


def test_eaten_coins_are_back_in_the_maze_and_gems_too_where_they_are_gone() -> None:
    cells = maze(x5y2="2", x6y2="1")
    eaten = ((5, 2), (7, 2), (8, 1))
    loaded = Game.from_record(record([frame(), frame(coins_eaten=eaten)], maze=cells))
    # Still there, still there, gone and back as a coin, and ground stays ground.
    assert [loaded.cell(x, 2) for x in (5, 6, 7)] == ["2", "1", "1"]
    assert loaded.cell(8, 1) == "S"


def test_outside_of_the_maze_everything_is_wall() -> None:
    assert {game().cell(x, y) for x, y in ((-1, 2), (64, 2), (5, -1), (5, 13))} == {"A"}


def test_unknown_keys_are_ignored() -> None:
    extended = record([{**frame({"extra": 1}), "extra": 2}], extra=3)
    assert Game.from_record(extended) == game()


BROKEN = {
    "frames": [],
    "maze": ["AAA", "AA"],
    "world_theme_n": 1,
    "agent_theme_n": -1,
    "ground_themes": "Grass",
    "monster_names": [],
    "monster_names.walking": [1],
    "zoom": "5.5",
    "maze_w": 0,
    "frames[0]": 7,
    "frames[0].agent": None,
    "frames[0].agent.x": float("nan"),
    "frames[0].agent.y": float("inf"),
    "frames[0].agent.time_alive": 0.5,
    "frames[0].agent.ladder": "no",
    "frames[0].agent.vx": 10**400,
    "frames[0].coins_eaten": [[1]],
    "frames[0].monsters[0].theme": 9,
    "frames[0].monsters[0].anim_freq": 0,
    "frames[0].monsters[0].is_dead": 2,
}


def change(content: Any, path: str, value: Any) -> None:
    *parents, last = path.replace("[", ".[").split(".")
    for name in parents:
        content = content[int(name[1:-1])] if name.startswith("[") else content[name]
    if value is change:
        del content[last]
    elif last.startswith("["):
        content[int(last[1:-1])] = value
    else:
        content[last] = value


@pytest.mark.parametrize("field", BROKEN)
def test_a_wrong_value_is_reported_with_file_and_field(tmp_path: Path, field: str) -> None:
    content = record([frame(monsters=({},))])
    change(content, field, BROKEN[field])
    path = tmp_path / "level.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        Game.load(path)
    assert f"{path}: {field} " in str(error.value)
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field",
    ["maze", "frames", "frames[0].agent", "frames[0].agent.vy", "frames[0].monsters[0].time"],
)
def test_a_missing_field_is_reported_by_name(field: str) -> None:
    content = copy.deepcopy(record([frame(monsters=({},))]))
    change(content, field, change)
    with pytest.raises(UserError) as error:
        Game.from_record(content, source="x.json")
    assert f"x.json: {field} is missing" in str(error.value)


def test_an_eaten_coin_outside_of_the_maze_is_refused() -> None:
    with pytest.raises(UserError, match=r"cell \[64, 2\]"):
        Game.from_record(record([frame(coins_eaten=((64, 2),))]))


@pytest.mark.parametrize(
    "content", [b"{", b"", b"[1]", b"\xff\xfe{", b"[" * 100_000, b"null"], ids=range(6)
)
def test_a_file_that_holds_no_game_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "level.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"level\.json"):
        Game.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.json cannot be read: No such file"):
        Game.load(tmp_path / "nothing.json")
