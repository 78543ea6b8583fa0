"""Simulated games: valid, repeatable, and eventful enough to learn from."""

from __future__ import annotations

import json

import pytest

from tats.data.mugen import Game, describe, simulate_game
from tats.data.mugen.levels import SOLID
from tats.errors import UserError

N_FRAMES = 96
SEEDS = range(40)


@pytest.fixture(scope="module")
def games() -> list[Game]:
    return [Game.from_record(simulate_game(seed, N_FRAMES)) for seed in SEEDS]


def test_a_seed_fixes_a_game_and_another_seed_gives_another() -> None:
    assert simulate_game(3, 20) == simulate_game(3, 20) != simulate_game(4, 20)


def test_a_game_survives_being_written(games: list[Game]) -> None:
    written = json.loads(json.dumps(simulate_game(0, N_FRAMES)))
    assert Game.from_record(written) == games[0]


@pytest.mark.parametrize("n_frames", [1, 17, 600])
def test_a_game_has_exactly_the_asked_length(n_frames: int) -> None:
    assert len(simulate_game(1, n_frames)["frames"]) == n_frames


def test_captions_are_varied_and_tell_everything_that_can_happen(games: list[Game]) -> None:
    captions = [describe(game) for game in games]
    assert len(set(captions)) > 0.9 * len(games)
    assert not any(caption == "Mugen " for caption in captions)
    told = " ".join(captions)
    for event in ("walks to the left", "jumps up", "jumps down", "a few times", "climbs", "over a",
                  "collects a coin", "a gem", "the shield", "and killed a", "killed by a",
                  "to a platform", "to the ground"):  # fmt: skip
        assert event in told, event


def test_no_body_is_ever_inside_something_solid(games: list[Game]) -> None:
    for game in games:
        for frame in game.frames:
            bodies = [frame.agent, *frame.monsters]
            assert not any(game.cell(round(b.x), round(b.y + 0.01)) in SOLID for b in bodies)


def test_coins_stay_eaten_and_were_there(games: list[Game]) -> None:
    for game in games:
        for before, after in zip(game.frames, game.frames[1:], strict=False):
            assert before.coins_eaten <= after.coins_eaten
            assert before.state_time + 1 == after.state_time
        assert all(game.cell(x, y) in "12" for x, y in game.frames[-1].coins_eaten)
    assert any(game.frames[-1].coins_eaten for game in games)


def test_nothing_is_eaten_twice() -> None:
    for seed in SEEDS:
        eaten = [tuple(place) for place in simulate_game(seed, 30)["frames"][-1]["coins_eaten"]]
        assert len(eaten) == len(set(eaten))


def test_the_agent_moves_smoothly_and_never_leaves_the_level(games: list[Game]) -> None:
    for game in games:
        for before, after in zip(game.frames, game.frames[1:], strict=False):
            assert abs(after.agent.x - before.agent.x) <= 0.6
            assert abs(after.agent.y - before.agent.y) <= 0.7
            assert 0.5 < after.agent.x < 62.5
            assert after.agent.y >= 0.9


def test_death_ends_the_game_and_the_dead_stay_dead(games: list[Game]) -> None:
    n_deaths = 0
    for game in games:
        for before, after in zip(game.frames, game.frames[1:], strict=False):
            assert after.agent.is_killed >= before.agent.is_killed
            alive = [
                (a.is_dead, b.is_dead) for a, b in zip(before.monsters, after.monsters, strict=True)
            ]
            assert all(later >= earlier for earlier, later in alive)
        killed = [frame.agent.is_killed for frame in game.frames]
        n_deaths += any(killed)
        assert sum(killed) <= 26
    assert 0.1 * len(games) < n_deaths < 0.6 * len(games)


def test_an_empty_game_is_refused() -> None:
    with pytest.raises(UserError, match="number of frames is 0"):
        simulate_game(0, 0)
