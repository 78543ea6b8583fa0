"""Rendered frames and semantic maps, with the drawn sprites and with a user's."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tats.data.mugen import Game, Renderer
from tats.data.mugen.drawn import draw, drawn_agent_themes
from tats.data.mugen.labels import figure_labels, map_labels
from tats.data.mugen.sprites import TILE_FILES, agent_file, ground_file, monster_file
from tats.errors import UserError
from tests.small_games import frame, maze, record

POSES = ("stand", "walk1", "walk2", "jump", "duck", "climb1", "climb2", "hit")
MONSTER_NAMES = (
    "sawHalf", "barnacle", "slimeBlock", "slimeBlue", "mouse", "snail", "ladybug", "wormPink",
    "frog", "bee",
)  # fmt: skip


def game(agent: dict[str, Any] | None = None, monsters=(), coins_eaten=(), **changes) -> Game:
    return Game.from_record(record([frame(agent, monsters, coins_eaten)], **changes))


@pytest.mark.parametrize("resolution", [1, 31, 64, 256])
def test_pictures_have_the_asked_size_and_type(resolution: int) -> None:
    renderer = Renderer(resolution)
    picture, labels = renderer.frame(game(), 0), renderer.semantic_map(game(), 0)
    assert (picture.shape, picture.dtype) == ((resolution, resolution, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((resolution, resolution), np.uint8)


def test_the_agent_is_in_the_middle_column() -> None:
    for x in (10.0, 10.5, 40.25):
        labels = Renderer(128).semantic_map(game({"x": x}), 0)
        columns = np.nonzero((labels == 18).any(axis=0))[0]
        assert abs(columns.mean() - 64) <= 2


@pytest.mark.parametrize("cell", "AS|^ab=#$&%12")
@pytest.mark.parametrize("max_label", [18, 21, 22])
def test_every_cell_carries_its_label(cell: str, max_label: int) -> None:
    renderer = Renderer(128, max_label=max_label)
    empty = renderer.semantic_map(game(), 0)
    labels = renderer.semantic_map(game(maze=maze(x13y4=cell)), 0)
    expected = map_labels(max_label)[cell]
    assert set(labels[labels != empty].tolist()) == ({expected} if expected else set())


@pytest.mark.parametrize("name", MONSTER_NAMES)
@pytest.mark.parametrize("max_label", [18, 22])
def test_every_monster_carries_its_label_and_has_a_picture(name: str, max_label: int) -> None:
    names = {"ground": [], "walking": [name], "flying": []}
    with_monster = game(monsters=({"theme": 0, "x": 13.0, "y": 5.0},), monster_names=names)
    renderer = Renderer(128, max_label=max_label)
    expected = map_labels(max_label)[name]
    labels = renderer.semantic_map(with_monster, 0, layers=("monsters",))
    assert set(labels.ravel().tolist()) == {0, expected}
    changed = (renderer.frame(with_monster, 0) != renderer.frame(game(), 0)).any(axis=2)
    assert changed.sum() > 20


def test_eaten_coins_are_not_shown() -> None:
    cells = maze(x13y4="1", x14y4="2")
    renderer = Renderer(64, max_label=22)
    shown = renderer.semantic_map(game(maze=cells), 0)
    assert {19, 20} <= set(shown.ravel().tolist())
    eaten = renderer.semantic_map(game(coins_eaten=((13, 4), (14, 4)), maze=cells), 0)
    assert not {19, 20} & set(eaten.ravel().tolist())


def test_agent_and_monsters_turn_to_where_they_go() -> None:
    renderer = Renderer(256)

    def picture(vx: float) -> np.ndarray:
        moving = game({"vx": vx, "x": 20.0}, ({"vx": vx, "x": 23.0, "y": 5.0},))
        return renderer.semantic_map(moving, 0, layers=("monsters", "agent"))

    assert (picture(0.1) != picture(-0.1)).sum() > 20


def test_boxes_cover_the_silhouettes() -> None:
    crowd = game({"power_up_mode": True}, ({"x": 13.0, "theme": 3},))
    renderer = Renderer(256, max_label=22)
    plain = renderer.semantic_map(crowd, 0, layers=("monsters", "agent", "shield"))
    boxed = renderer.semantic_map(
        crowd, 0, agent_box=True, monster_boxes=True, layers=("monsters", "agent", "shield")
    )
    monster = boxed == map_labels(22)["bee"]
    assert monster.sum() == 22 * 22 > (plain == map_labels(22)["bee"]).sum()
    assert monster[plain == map_labels(22)["bee"]].all()
    rows, columns = np.nonzero(boxed >= 21)
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a filled rectangle
    agent_only = renderer.semantic_map(crowd, 0, agent_box=True, layers=("monsters",))
    assert np.array_equal(agent_only, renderer.semantic_map(crowd, 0, layers=("monsters",)))


def test_a_killed_agent_fades_and_is_gone() -> None:
    renderer = Renderer(128)

    def killed(count: int) -> np.ndarray:
        dying = game({"is_killed": True, "killed_animation_frame_cnt": count})
        return renderer.frame(dying, 0).astype(int)

    empty = renderer.frame(game(), 0, layers=("background", "cells")).astype(int)
    differences = [abs(killed(count) - empty).sum() for count in (31, 25, 15, 9)]
    assert differences[0] > differences[1] > differences[2] > differences[3] == 0


def test_a_fading_agent_stays_whole_on_the_map_until_it_is_gone() -> None:
    def n_pixels(count: int) -> int:
        dying = game({"is_killed": True, "killed_animation_frame_cnt": count})
        return int((Renderer(128).semantic_map(dying, 0) == 18).sum())

    assert n_pixels(31) == n_pixels(10) > n_pixels(9) == 0


def test_a_dead_monster_is_flattened_towards_the_ground() -> None:
    def rows(count: int) -> np.ndarray:
        dead = game(monsters=({"x": 13.0, "is_dead": True, "monster_dying_frame_cnt": count},))
        return np.nonzero(Renderer(256).semantic_map(dead, 0, layers=("monsters",)).any(1))[0]

    tall, flat = rows(3), rows(0)
    assert len(flat) < 0.4 * len(tall)
    assert abs(flat[-1] - tall[-1]) <= 2


def test_lava_flows_and_comes_back_after_ten_frames() -> None:
    pit = maze(**{f"x{x}y1": "^" for x in range(12, 16)})

    def picture(time: int) -> np.ndarray:
        flowing = {**frame(), "state_time": time}
        return Renderer(128).frame(Game.from_record(record([flowing], maze=pit)), 0)

    assert (picture(0) != picture(3)).any()
    assert np.array_equal(picture(0), picture(10))


def test_layers_add_up_to_the_whole_picture() -> None:
    full = game({"power_up_mode": True}, ({"x": 13.0},))
    renderer = Renderer(64)
    assert np.array_equal(
        renderer.frame(full, 0),
        renderer.frame(full, 0, ("background", "cells", "monsters", "agent", "shield")),
    )
    assert not renderer.frame(full, 0, ()).any()


def test_a_renderer_travels_to_another_process_and_paints_the_same() -> None:
    renderer = Renderer(64)
    picture = renderer.frame(game(), 0)
    assert np.array_equal(pickle.loads(pickle.dumps(renderer)).frame(game(), 0), picture)


@pytest.mark.parametrize("zoom", [4.3, 5.0, 5.5, 6.0])
def test_every_published_zoom_is_rendered(zoom: float) -> None:
    assert (Renderer(64).semantic_map(game(zoom=zoom), 0) == 18).any()


@pytest.mark.parametrize("zoom", [1.0, 5.4, 0.0, -5.5])
def test_another_zoom_is_refused(zoom: float) -> None:
    with pytest.raises(UserError, match=r"zoom is .*; expected one of 4.3, 5.0, 5.5, 6.0"):
        Renderer(64).frame(game(zoom=zoom), 0)


def test_unknown_things_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"cell '\?"):
        Renderer(64).frame(game(maze=maze(x12y3="?")), 0)
    names = {"ground": [], "walking": ["dragon"], "flying": []}
    dragon = game(monsters=({"theme": 0, "x": 12.0},), monster_names=names)
    with pytest.raises(UserError, match="dragon"):
        Renderer(64).frame(dragon, 0)
    with pytest.raises(UserError, match="dragon"):
        Renderer(64).semantic_map(dragon, 0)


@pytest.mark.parametrize("options", [{"resolution": 0}, {"max_label": 19}, {"assets": "nowhere"}])
def test_a_wrong_option_is_refused_with_its_flag(options: dict[str, Any]) -> None:
    flag = {"assets": "coinrun_assets"}.get(*options, *options)
    with pytest.raises(UserError, match=f"--{flag} {options[next(iter(options))]}"):
        Renderer(**{"resolution": 64, **options})


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A user's sprite folder, in flat colours."""
    paths = [*TILE_FILES.values(), "bubble_shield.png", "backgrounds/meadow.png"]
    paths += [ground_file("Grass", cell) for cell in "ASab"]
    paths += [monster_file("slimeBlock"), *(agent_file("Yellow", pose) for pose in POSES)]
    for number, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        colour = (10 + number, 0, 255 - number, 255)
        Image.new("RGBA", (8, 16 if "alien" in path else 8), colour).save(tmp_path / path)
    return tmp_path


def test_a_users_sprites_are_used(assets: Path) -> None:
    picture = Renderer(64, assets).frame(game(), 0)
    assert set(picture[..., 1].ravel().tolist()) == {0}
    assert Renderer(64, assets).agent_themes() == ["Yellow"]


def test_a_missing_state_falls_back_to_the_monsters_one_picture(assets: Path) -> None:
    moving = game(monsters=({"time": 5, "x": 12.0},))
    still = game(monsters=({"time": 0, "x": 12.0},))
    renderer = Renderer(64, assets)
    assert np.array_equal(renderer.frame(moving, 0), renderer.frame(still, 0))


def test_a_missing_sprite_is_named(assets: Path) -> None:
    (assets / agent_file("Yellow", "stand")).unlink()
    with pytest.raises(UserError, match=r"--coinrun_assets .* has no file .*alienYellow_stand"):
        Renderer(64, assets).frame(game(), 0)


def test_a_sprite_that_is_no_picture_is_named(assets: Path) -> None:
    (assets / TILE_FILES["1"]).write_text("not a picture")
    with pytest.raises(UserError, match=r"coinGold\.png cannot be read as a picture"):
        Renderer(64, assets).frame(game(maze=maze(x12y3="1")), 0)


def test_a_folder_without_an_agent_has_no_colours(assets: Path) -> None:
    shutil.rmtree(assets / "kenneyLarge" / "Players")
    with pytest.raises(UserError, match="has no agent"):
        Renderer(64, assets).agent_themes()


def test_every_drawn_sprite_differs_from_every_other() -> None:
    paths = list(TILE_FILES.values())
    paths += [ground_file(theme, cell) for theme in ("Grass", "Snow", "Odd") for cell in "ASab"]
    paths += [
        monster_file(name + state) for name in MONSTER_NAMES for state in ("", "_move", "_dead")
    ]
    paths += [agent_file(theme, pose) for theme in drawn_agent_themes() for pose in POSES]
    pictures = {path: np.asarray(draw(path).convert("RGBA")) for path in paths}
    assert all((picture[..., 3] > 0).mean() > 0.05 for picture in pictures.values())
    assert len({picture.tobytes() for picture in pictures.values()}) == len(paths)


def test_any_background_name_gives_a_landscape_of_its_own() -> None:
    names = ["backgrounds/meadow.png", "kenney/Backgrounds/blue_land.png", "x.png"]
    pictures = [np.asarray(draw(name)) for name in names]
    assert np.array_equal(pictures[1], np.asarray(draw(names[1])))
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_maps_of_figures_alone_have_the_published_channels() -> None:
    assert figure_labels(21, agent_only=False) == (0, *range(9, 22))
    assert figure_labels(22, agent_only=True) == (0, 21, 22)
    with pytest.raises(UserError, match="--max_label 18"):
        figure_labels(18, agent_only=True)
