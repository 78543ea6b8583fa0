"""How one decoding step is taken: operation by operation, compiled on a CPU, replayed on a GPU.

``Engine`` (plain.py) is the interface and the reference; the others are held to it token by token.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch

from tats.models.gpt import GPT, Int8Linear
from tats.sampling.engines import cpu, cuda
from tats.sampling.engines.plain import Engine

__all__ = ["Engine", "engine_for", "quantize_"]


class _Kept(NamedTuple):
    """The engine a model was used with last, and for what."""

    key: tuple[Any, ...]
    engine: Engine


_kept: weakref.WeakKeyDictionary[GPT, _Kept] = weakref.WeakKeyDictionary()


def engine_for(gpt: GPT, kind: type[Engine] | None = None, **sizes: Any) -> Engine:
    """Give a model's engine; the last one is kept for as long as the weights stay the same.

    Args:
        gpt: the model.
        kind: of the engine; None for what suits the model's device.
        sizes: the other arguments of ``Engine``.
    """
    kind = kind or _best_kind(gpt)
    if gpt not in _kept or _kept[gpt].key != (kind, _weights_of(gpt), sizes):
        _kept.pop(gpt, None)  # its memory first
        engine = kind(gpt, **sizes)
        # An engine may move weights to other memory.
        _kept[gpt] = _Kept((kind, _weights_of(gpt), sizes), engine)
    return _kept[gpt].engine


def quantize_(gpt: GPT) -> None:
    """Store a model's matrices in 8 bits, for good.

    Raises:
        ValueError: this device would only be slower with them.
    """
    if gpt.pos_emb.device.type == "cpu" and not cpu.is_built():
        raise ValueError(
            "8-bit weights on a CPU need the compiled decoding step; install a C++ compiler and "
            "run `pip install -e .` again"
        )
    if not isinstance(gpt.blocks[0].attn.proj, Int8Linear):  # type: ignore[union-attr]
        gpt.quantize_()


def _best_kind(gpt: GPT) -> type[Engine]:
    device, dtype = gpt.pos_emb.device, gpt.pos_emb.dtype
    if device.type in cuda.DEVICES:
        return cuda.CudaEngine
    if device.type == "cpu" and dtype in cpu.CACHE_TYPES and cpu.is_built():
        return cpu.CpuEngine
    return Engine


def _weights_of(gpt: GPT) -> tuple[tuple[int, int, torch.dtype], ...]:
    """What changes when a weight is replaced or trained."""
    return tuple(
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.dtype)
        for tensor in (*gpt.parameters(), *gpt.buffers())
    )
