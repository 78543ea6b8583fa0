"""Captions told from hand-made games; the wording is fixed by the published training captions."""

from __future__ import annotations

from typing import Any

import pytest

from tats.data.mugen import Game, describe, simulate_game
from tests.small_games import frame, jump, maze, record, walk

Agents = list[dict[str, Any]]
STAND: Agents = [{}]


def tell(agents: Agents, monsters: list[tuple[dict[str, Any], ...]] | None = None, **game) -> str:
    """Caption of a game whose first frame shows the agent standing where the story ends."""
    # The first run of a game starts at the last frame's place (D25): leave it out of the story.
    frames = [
        frame(agent, monsters[i] if monsters else (), agent.pop("eaten", ()))
        for i, agent in enumerate([dict(agent) for agent in agents])
    ]
    return describe(Game.from_record(record(frames, **game)), 1)


@pytest.mark.parametrize(
    ("to", "text"),
    [
        (11.0, "Mugen walks to the right"),
        (9.0, "Mugen walks to the left"),
        (10.4, "Mugen walks a bit"),
    ],
)
def test_a_walk_has_a_direction_if_it_is_longer_than_half_a_cell(to: float, text: str) -> None:
    assert tell(STAND + walk(10, to, 8)) == text


def test_a_run_of_five_frames_is_not_told_and_one_of_six_is() -> None:
    assert tell(STAND + walk(10, 12, 5)) == "Mugen "
    assert tell(STAND + walk(10, 12, 6)) == "Mugen walks to the right"


def test_the_first_run_of_a_game_starts_where_the_last_frame_is() -> None:
    frames = [frame(agent) for agent in [*STAND, *walk(10, 14, 8)]]
    assert describe(Game.from_record(record(frames))) == "Mugen walks a bit"


def test_the_agent_can_be_called_by_another_name() -> None:
    game = Game.from_record(record([frame(agent) for agent in [*STAND, *walk(10, 14, 8)]]))
    assert describe(game, 1, name="robot") == "robot walks to the right"
    assert describe(game, 3, 4, name="robot") == "robot "


def test_the_range_is_clipped_to_the_game() -> None:
    game = Game.from_record(record([frame(agent) for agent in [*STAND, *walk(10, 14, 8)]]))
    assert describe(game, 1, 1000) == describe(game, 1, -1) == describe(game, 1)
    assert describe(game, -5) == describe(game)
    assert describe(game, 20, 30) == describe(game, 5, 5) == "Mugen "


def test_climbing_tells_up_and_down() -> None:
    up = [{"y": 2 + 0.2 * i, "ladder": True, "vy": 0.2} for i in range(1, 9)]
    down = [{"y": 3.6 - 0.2 * i, "ladder": True, "vy": -0.2} for i in range(1, 9)]
    assert tell([*STAND, *up]) == "Mugen climbs up on a ladder"
    assert tell([{"y": 3.6}, *down]) == "Mugen climbs down on a ladder"
    still = [{"y": 2, "ladder": True}] * 8
    assert tell([*STAND, *still]) == "Mugen climbs on a ladder"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("S", " to a platform"),
        ("a", " to a platform"),
        ("#", " to a crate"),
        ("%", " to a crate"),
        ("=", " to a ladder"),
        ("^", ""),
    ],
)
def test_a_jump_up_tells_what_it_lands_on(cell: str, text: str) -> None:
    landing = [{"x": 12.0, "y": 5.0}] * 2
    cells = maze(x12y4=cell)
    jumping = [*STAND, *jump(10, 12, 8, end_y=5.0), *landing]
    assert tell(jumping, maze=cells) == f"Mugen jumps up to the right{text}"


def test_a_jump_that_lands_over_an_edge_looks_at_the_neighbouring_cell() -> None:
    landing = [{"x": 11.6, "y": 5.0}] * 2
    cells = maze(x11y4="$")
    assert tell([*STAND, *jump(10, 11.6, 8, end_y=5.0), *landing], maze=cells) == (
        "Mugen jumps up to the right to a crate"
    )


def test_a_jump_down_to_row_zero_lands_on_the_ground() -> None:
    cells = maze(x11y1=".")
    landing = [{"x": 11.0, "y": 1.0}] * 2
    jumping = [{"x": 10.0, "y": 2.0}, *jump(10, 11, 8, end_y=1.0), *landing]
    assert tell(jumping, maze=cells) == "Mugen jumps down to the right to the ground"


def test_level_jumps_with_short_pauses_are_one_told_a_few_times() -> None:
    def pause(x: float, n_frames: int) -> Agents:
        return [{"x": x}] * n_frames

    chain = [*STAND, *jump(10, 11, 6), *pause(11, 5), *jump(11, 12, 6), *pause(12, 9)]
    assert tell(chain) == "Mugen jumps a few times to the right, and walks a bit"
    apart = [*STAND, *jump(10, 11, 6), *pause(11, 6), *jump(11, 12, 6), *pause(12, 9)]
    assert tell(apart) == (
        "Mugen jumps to the right, and walks a bit, and jumps to the right, and walks a bit"
    )


def test_a_jump_stopped_by_a_ceiling_is_one_jump() -> None:
    bumped = [{"x": 10.5, "y": 4.0}] * 2
    rise, fall = jump(10, 10.5, 6, end_y=4.0), jump(10.5, 11, 6, y=4.0, end_y=2.0)
    landing = [{"x": 11.0}] * 3
    assert tell([*STAND, *rise, *bumped, *fall, *landing]) == "Mugen jumps to the right"


@pytest.mark.parametrize(
    ("eaten", "text"),
    [
        (((12, 2),), "a coin"),
        (((12, 2), (13, 2)), "a few coins"),
        (((14, 2),), "a gem"),
        (((14, 2), (15, 2)), "a few gems"),
        (((12, 2), (14, 2), (15, 2)), "a coin and a few gems"),
    ],
)
def test_what_is_collected_is_told(eaten: tuple[tuple[int, int], ...], text: str) -> None:
    agents = STAND + walk(10, 12, 8)
    agents[5:] = [{**agent, "eaten": eaten} for agent in agents[5:]]
    cells = maze(x12y2="1", x13y2="1", x14y2="2", x15y2="2")
    assert tell(agents, maze=cells) == f"Mugen walks to the right and collects {text}"


@pytest.mark.parametrize(
    ("shielded", "text"),
    [
        ((0, 0, 0, 1, 1, 1, 1, 1), " to turn on the shield"),
        ((1, 1, 1, 0, 0, 0, 0, 0), " to turn off the shield"),
        ((1, 1, 1, 0, 0, 1, 1, 1), " to turn shield off then on again"),
        ((0, 0, 1, 1, 1, 0, 0, 0), " to turn shield on then off again"),
        ((1,) * 8, ""),
    ],
)
def test_a_change_of_the_shield_is_told_with_what_was_collected(shielded, text: str) -> None:
    walking = [
        {**a, "power_up_mode": bool(s)} for a, s in zip(walk(10, 12, 8), shielded, strict=True)
    ]
    assert tell(STAND + walking) == "Mugen walks to the right"
    collecting = [{**agent, "eaten": ((14, 2),)} for agent in walking]
    assert tell(STAND + collecting, maze=maze(x14y2="2")) == (
        f"Mugen walks to the right and collects a gem{text}"
    )


def test_killed_monsters_are_told_up_to_one_frame_past_the_run() -> None:
    agents = STAND + walk(10, 12, 8) + jump(12, 13, 8)
    for death in (3, 9):  # in the walk, and one frame after it
        monsters = [({"theme": 3}, {"theme": 2, "is_dead": i >= death}) for i in range(17)]
        assert tell(agents, monsters) == (
            "Mugen walks to the right and killed a slimeBlock, and jumps to the right"
        )


def test_the_killer_is_the_nearest_monster() -> None:
    agents = [*STAND, *[{"is_killed": True}] * 8]
    monsters = [({"x": 13.0}, {"x": 9.0, "theme": 3})] * 9
    assert tell(agents, monsters) == "Mugen killed by a bee"
    assert tell(agents) == "Mugen killed by a monster"


def test_monsters_jumped_over_are_told_unless_they_die() -> None:
    agents = [*STAND, *jump(10, 13, 8), {"x": 13.0}, {"x": 13.0}]
    alive = ({"x": 12.0}, {"x": 11.0, "theme": 3})
    assert tell(agents, [alive] * 11) == ("Mugen jumps to the right over a slimeBlock and a bee")
    dead = ({"x": 12.0, "is_dead": True}, {"x": 11.0, "theme": 3})
    assert tell(agents, [dead] * 11) == "Mugen jumps to the right over a bee"
    above = ({"x": 12.0, "y": 4.0}, {"x": 11.0, "y": 3.0})
    assert tell(agents, [above] * 11) == "Mugen jumps to the right"


@pytest.mark.parametrize("seed", range(6))
def test_any_range_of_any_game_can_be_told(seed: int) -> None:
    game = Game.from_record(simulate_game(seed, 40))
    for start in range(40):
        for end in range(start, 41, 3):
            assert describe(game, start, end).startswith("Mugen ")
