"""MUGEN's CoinRun games: recorded state to frames, semantic maps and captions."""

from __future__ import annotations

from tats.data.mugen.captions import describe
from tats.data.mugen.game import Game
from tats.data.mugen.renderer import Renderer
from tats.data.mugen.simulate import simulate_game

__all__ = ["Game", "Renderer", "describe", "simulate_game"]
