"""MUGEN's CoinRun games: recorded state to frames, semantic maps and captions."""

from tats.coinrun.captions import describe
from tats.coinrun.game import Game
from tats.coinrun.renderer import Renderer
from tats.coinrun.simulate import simulate_game

__all__ = ["Game", "Renderer", "describe", "simulate_game"]
