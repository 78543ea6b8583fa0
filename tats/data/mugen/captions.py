"""What happens in a game, told in one sentence: the captions the text models are trained on.

The frames are cut into runs of one activity (walking, climbing, jumping, being hit), runs that
belong to one chain of jumps are joined, and each run long enough is told with its direction, what
was collected and who was killed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from tats.data.mugen.game import GEM, PASSABLE, Frame, Game

Activity = Literal["ground", "climb", "jump", "hit"]

_ACTIVITY_OF_POSE: dict[str, Activity] = {
    "walk1": "ground",
    "walk2": "ground",
    "duck": "ground",
    "stand": "ground",
    "climb1": "climb",
    "climb2": "climb",
    "jump": "jump",
    "hit": "hit",
}
_MIN_TOLD_SPAN = 5  # a run is told when its last frame is at least this many after its first
_MAX_PAUSE_SPAN = 5  # jumps with a shorter pause between them are one chain
_MAX_BUMP_SPAN = 1  # a head against the ceiling stops the agent in the air for this long at most
_MIN_MOVE = 0.5  # cells; smaller moves have no direction
_GROUND_HEIGHT = 1.5  # cells; ground below this is "the ground", above it "a platform"


@dataclass(frozen=True, slots=True)
class _Run:
    """Frames first…last of one activity, and where the agent was before and after."""

    activity: Activity
    first: int
    last: int
    start: tuple[float, float]
    end: tuple[float, float]
    n_jumps: int = 1

    @property
    def rise(self) -> float:
        return self.end[1] - self.start[1]

    @property
    def advance(self) -> float:
        return self.end[0] - self.start[0]


def describe(game: Game, start: int = 0, end: int | None = None, name: str = "Mugen") -> str:
    """Tell what the agent does in a range of frames.

    Args:
        game: the recorded game.
        start: first frame.
        end: one past the last frame; None or -1 mean the end of the game. The range is clipped to
            the game.
        name: what the agent is called.

    Returns:
        The caption; the name and a space where nothing long enough happens.

    Source: DEVIATIONS D25 lists the quirks kept because the models were trained on them.
    """
    if end is None or end == -1:
        end = game.n_frames
    runs = _runs(game, max(start, 0), min(end, game.n_frames))
    runs = _join_chained_jumps(_join_bumped_jumps(game, runs))
    told = [_tell(game, run) for run in runs if run.last - run.first >= _MIN_TOLD_SPAN]
    return f"{name} " + ", and ".join(told)


def _runs(game: Game, start: int, end: int) -> list[_Run]:
    """Cut frames start…end-1 into maximal runs of one activity."""
    activities = [_ACTIVITY_OF_POSE[frame.agent.pose] for frame in game.frames[start:end]]
    bounds = [i for i in range(1, len(activities)) if activities[i] != activities[i - 1]]
    runs = []
    for first, stop in pairwise([0, *bounds, len(activities)] if activities else []):
        jumps = activities[first] == "jump"
        begin, last = start + first, start + stop - 1
        # A ground run of the game's first frame starts where the game's *last* frame is (D25).
        before = max(begin - 1, 0) if jumps else begin - 1
        after = last + 1 if jumps and last + 1 < end else last
        runs.append(_Run(activities[first], begin, last, _place(game, before), _place(game, after)))
    return runs


def _join_bumped_jumps(game: Game, runs: list[_Run]) -> list[_Run]:
    """Join the two halves of a jump that a ceiling interrupts: still one jump."""

    def is_bump(pause: _Run, before: _Run, after: _Run) -> bool:
        short = pause.last - pause.first <= _MAX_BUMP_SPAN
        return short and _cell_below(game, pause) in PASSABLE

    return _join_jumps(runs, is_bump, counts_add=False)


def _join_chained_jumps(runs: list[_Run]) -> list[_Run]:
    """Join level jumps with short pauses between them: "jumps a few times"."""

    def is_pause(pause: _Run, before: _Run, after: _Run) -> bool:
        level = abs(before.rise) <= _MIN_MOVE and abs(after.rise) <= _MIN_MOVE
        return pause.last - pause.first < _MAX_PAUSE_SPAN and level

    return _join_jumps(runs, is_pause, counts_add=True)


def _join_jumps(
    runs: list[_Run], joins: Callable[[_Run, _Run, _Run], bool], *, counts_add: bool
) -> list[_Run]:
    """Join every jump, ground, jump for which ``joins(ground, jump before, jump after)``."""
    joined: list[_Run] = []
    i = 0
    while i < len(runs):
        before = joined[-1] if joined else None
        after = runs[i + 1] if i + 1 < len(runs) else None
        if (
            before is not None
            and after is not None
            and runs[i].activity == "ground"
            and before.activity == after.activity == "jump"
            and joins(runs[i], before, after)
        ):
            n_jumps = before.n_jumps + after.n_jumps if counts_add else before.n_jumps
            joined[-1] = replace(before, last=after.last, end=after.end, n_jumps=n_jumps)
            i += 2
        else:
            joined.append(runs[i])
            i += 1
    return joined


def _tell(game: Game, run: _Run) -> str:
    if run.activity == "hit":
        return f"killed by a {_nearest_monster(game, run)}"
    right = _direction(run.advance, " to the right", " to the left")
    up = _direction(run.rise, " up", " down")
    if run.activity == "ground":
        text = f"walks{right or ' a bit'}"
    elif run.activity == "climb":
        text = f"climbs{up} on a ladder"
    else:
        times = " a few times" if run.n_jumps >= 2 else ""
        over = _join_names(" over", _jumped_over(game, run))
        goal = _destination(game, run) if up else ""
        text = f"jumps{up}{times}{right}{over}{goal}"
    return text + _collected(game, run) + _join_names(" and killed", _killed(game, run))


def _direction(move: float, forward: str, backward: str) -> str:
    if move > _MIN_MOVE:
        return forward
    return backward if move < -_MIN_MOVE else ""


def _join_names(lead: str, names: list[str]) -> str:
    return lead + " and".join(f" a {name}" for name in names) if names else ""


def _destination(game: Game, run: _Run) -> str:
    below = _cell_below(game, run)
    if below in "SAab":
        return " to the ground" if run.end[1] < _GROUND_HEIGHT else " to a platform"
    if below in "#$&%":
        return " to a crate"
    return " to a ladder" if below == "=" else ""


def _cell_below(game: Game, run: _Run) -> str:
    """Cell under the run's end; a jump that ends over air looks at the neighbour it overlaps."""
    x, y = run.end
    below = game.cell(round(x), round(y) - 1)
    if run.activity == "jump" and below in PASSABLE:
        below = game.cell(2 * int(x) + 1 - round(x), round(y) - 1)
    return below


def _collected(game: Game, run: _Run) -> str:
    earlier = game.frames[max(run.first - 1, 0)].coins_eaten
    taken = [game.cell(x, y) for x, y in game.frames[run.last].coins_eaten - earlier]
    n_gems = taken.count(GEM)
    n_coins = len(taken) - n_gems
    if not taken:
        return ""
    coins = _one_or_few(n_coins, " a coin", " a few coins")
    gems = _one_or_few(n_gems, " a gem", " a few gems")
    both = " and" if coins and gems else ""
    return f" and collects{coins}{both}{gems}{_shield_change(game, run)}"


def _one_or_few(count: int, one: str, few: str) -> str:
    if count == 0:
        return ""
    return one if count == 1 else few


def _shield_change(game: Game, run: _Run) -> str:
    states = [frame.agent.power_up_mode for frame in _frames(game, run)]
    if len(set(states)) < 2:
        return ""
    return {
        (False, True): " to turn on the shield",
        (True, False): " to turn off the shield",
        (True, True): " to turn shield off then on again",
        (False, False): " to turn shield on then off again",
    }[states[0], states[-1]]


def _killed(game: Game, run: _Run) -> list[str]:
    """Names of the monsters killed, looked up to one frame past the run's end (D25)."""
    names = []
    for i in range(run.first + 1, _frame_after(game, run) + 1):
        before, now = game.frames[i - 1].monsters, game.frames[i].monsters
        if sum(m.is_dead for m in now) > sum(m.is_dead for m in before):
            newly_dead = (
                monster.name
                for k, monster in enumerate(now)
                if monster.is_dead and not (k < len(before) and before[k].is_dead)
            )
            names.append(next(newly_dead))
    return names


def _nearest_monster(game: Game, run: _Run) -> str:
    x, y = run.start
    monsters = game.frames[run.first].monsters
    if not monsters:
        return "monster"
    return min(monsters, key=lambda m: (m.x - x) ** 2 + (m.y - y) ** 2).name


def _jumped_over(game: Game, run: _Run) -> list[str]:
    """Names of the monsters that were under the agent during the jump and lived on."""
    height = round(run.start[1])
    under = {
        k
        for frame in _frames(game, run)
        for k, monster in enumerate(frame.monsters)
        if (round(monster.x), round(monster.y)) == (round(frame.agent.x), height)
    }
    after = game.frames[_frame_after(game, run)].monsters
    return [after[k].name for k in sorted(under) if k < len(after) and not after[k].is_dead]


def _frames(game: Game, run: _Run) -> tuple[Frame, ...]:
    return game.frames[run.first : run.last + 1]


def _frame_after(game: Game, run: _Run) -> int:
    return min(run.last + 1, game.n_frames - 1)


def _place(game: Game, i: int) -> tuple[float, float]:
    agent = game.frames[i].agent
    return agent.x, agent.y
