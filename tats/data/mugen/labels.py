"""The numbers that stand for things on a semantic map; published checkpoints depend on them."""

from __future__ import annotations

from tats.errors import UserError

_CELL_LABELS = {"|": 1, "^": 2, "A": 3, "S": 4, "a": 5, "b": 6, "=": 7}
_CRATE_LABELS = dict.fromkeys("#$&%", 8)
_MONSTER_LABELS = {
    "wormPink": 9,
    "ladybug": 10,
    "snail": 11,
    "mouse": 12,
    "slimeBlue": 13,
    "slimeBlock": 14,
    "bee": 15,
    "sawHalf": 16,
}
_LATE_LABELS = {
    18: {"1": 17, "2": 0, "shield": 0, "barnacle": 0, "frog": 0, "agent": 18},
    21: {"barnacle": 17, "frog": 18, "1": 19, "2": 20, "shield": 21, "agent": 21},
    22: {"barnacle": 17, "frog": 18, "1": 19, "2": 20, "shield": 21, "agent": 22},
}
FIRST_MONSTER_LABEL = 9  # the labels before it are the level
SHIELD_LABEL = 21  # in the label sets that have one


def map_labels(max_label: int) -> dict[str, int]:
    """Give every thing that can be drawn its label.

    Args:
        max_label: label set: 18, 21 or 22.

    Returns:
        Label of each maze character, monster name, ``shield`` and ``agent``.

    Raises:
        UserError: there is no such label set.
    """
    if max_label not in _LATE_LABELS:
        raise UserError(f"--max_label {max_label} has no label set; expected 18, 21 or 22")
    return {**_CELL_LABELS, **_CRATE_LABELS, **_MONSTER_LABELS, **_LATE_LABELS[max_label]}


def figure_labels(max_label: int, agent_only: bool) -> tuple[int, ...]:
    """Give the labels on a map that shows figures alone: background, monsters, agent and shield.

    Args:
        max_label: label set: 18, 21 or 22.
        agent_only: leave the monsters out too.

    Returns:
        Labels, ascending.

    Raises:
        UserError: the label set has no shield, so a map of the agent alone has no labels for it.
    """
    first = SHIELD_LABEL if agent_only else FIRST_MONSTER_LABEL
    if first > max_label:
        raise UserError(
            f"--max_label {max_label} has no label of its own for the shield; expected 21 or 22 "
            "with --get_mixed_rgb_smap_mugen_only and --use_onehot_smap"
        )
    return (0, *range(first, max_label + 1))
