"""One decoding step on a CPU as one call of compiled code; ``cpu_step.cpp`` says why and how.

The code is compiled when TATS is installed, if there is a C++ compiler. Without it everything
decodes as well, operation by operation, only slower; ``is_built`` says which it is.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tats.models.gpt import KVCache

if TYPE_CHECKING:
    from tats.sampling.engines.prepared import PreparedBlock

log = logging.getLogger(__name__)

VERSION = 1  # of the structures below; tats_version() of the build must be the same
WEIGHT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
PRODUCTS_PER_THREAD = 1 << 20  # fewer are not worth waking a thread for
X86 = ("x86_64", "AMD64")
CACHE_TYPES = {torch.float32: 0, torch.bfloat16: 1}


@dataclass(frozen=True)
class StoredMatrix:
    """A linear layer in the form the compiled step reads; called on rows, it multiplies them.

    Args:
        weight: (out, in) float32, bfloat16 or int8.
        scale: float32 (out,), what one step of an int8 weight stands for; None for other types.
        bias: float32 (out,), or None.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply float32 (B, S, in), for any number of rows; (B, S, out)."""
        weight = self.weight.float()
        if self.scale is not None:
            weight = weight * self.scale[:, None]
        return F.linear(x, weight, self.bias)

    def few_rows(self, x: Tensor) -> Tensor:
        """Multiply float32 (B, in) as the compiled step does; (B, out)."""
        library = _library()
        assert library is not None
        n_out, n_in = self.weight.shape
        x, y = x.float().contiguous(), torch.empty(len(x), n_out)
        library.tats_project(
            ctypes.byref(_Matrix.of(self)), WEIGHT_TYPES[self.weight.dtype],
            x.data_ptr(), len(x), n_in, n_out, y.data_ptr(), _n_threads(y.numel() * n_in),
        )  # fmt: skip
        return y


class CompiledLayers:
    """All layers of a GPT and its last norm, for one new token a sample.

    Args:
        layers: at least one; their norms in float32, their matrices ``StoredMatrix`` of one type.
        ln_f: the last norm, in float32.
        n_head: attention heads.
    """

    def __init__(self, layers: Sequence[PreparedBlock], ln_f: nn.LayerNorm, *, n_head: int) -> None:
        self._layers = (_Layer * len(layers))(*(_Layer.of(layer) for layer in layers))
        self._tensors = (list(layers), ln_f)  # the structures only point to them
        matrix: Any = layers[0].proj
        self._net = _Network(
            n_layer=len(layers),
            n_head=n_head,
            width=len(matrix.weight),
            weight_type=WEIGHT_TYPES[matrix.weight.dtype],
            layers=self._layers,
            ln_f=_Norm.of(ln_f),
        )

    def step(self, x: Tensor, cache: KVCache, visible: Tensor | None) -> Tensor:
        """Append one slot to the cache.

        Args:
            x: embeddings of the new tokens, float32 (B, D).
            cache: keys and values of the slots before; its length is left as it is.
            visible: bool (slots so far + 1,), True where the new slot may look; None everywhere.

        Returns:
            Hidden states, float32 (B, D).
        """
        library = _library()
        assert library is not None
        n_threads = _n_threads(12 * self._net.n_layer * self._net.width * x.numel())
        x, hidden = x.contiguous().clone(), torch.empty_like(x)
        scratch = torch.empty(9 * x.numel() + n_threads * cache.max_length)
        visible = None if visible is None else visible.contiguous()
        self._net.n_threads = n_threads
        self._net.cache_type = CACHE_TYPES[cache.keys.dtype]
        step = _Step(
            n_rows=len(x),
            slot=cache.length,
            max_length=cache.max_length,
            keys=cache.keys.data_ptr(),
            values=cache.values.data_ptr(),
            visible=None if visible is None else visible.data_ptr(),
            x=x.data_ptr(),
            hidden=hidden.data_ptr(),
            scratch=scratch.data_ptr(),
        )
        library.tats_step(ctypes.byref(self._net), ctypes.byref(step))
        return hidden


def is_built() -> bool:
    """Whether the compiled step is there and runs on this processor."""
    return _library() is not None


@functools.cache
def _library() -> Any | None:
    folder = Path(__file__).parent
    paths = [folder / f"_cpu_step{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    hint = "sampling on the CPU is several times slower; a C++ compiler and `pip install -e .` help"
    if path is None:
        log.warning("the decoding step has not been compiled: %s", hint)
        return None
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" and platform.machine() in X86:
        log.warning("this processor has no AVX2, which the compiled step needs: decoding is slower")
        return None
    # The step's threads are those torch works with: two teams would fight for the cores.
    for team in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        ctypes.CDLL(str(team), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path))
    if library.tats_version() != VERSION:
        log.warning("the compiled decoding step is of another version of TATS: %s", hint)
        return None
    pointer, int32 = ctypes.c_void_p, ctypes.c_int32
    library.tats_step.argtypes = [pointer, pointer]
    library.tats_project.argtypes = [
        pointer, int32, pointer, int32, int32, int32, pointer, int32,
    ]  # fmt: skip
    library.tats_step.restype = library.tats_project.restype = None
    return library


def _n_threads(n_products: int) -> int:
    return min(torch.get_num_threads(), 1 + n_products // PRODUCTS_PER_THREAD)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scale", "bias")]

    @classmethod
    def of(cls, matrix: Any) -> _Matrix:
        return cls(*map(_address, (matrix.weight, matrix.scale, matrix.bias)))


class _Norm(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> _Norm:
        return cls(_address(norm.weight), _address(norm.bias), norm.eps)


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("ln1", "ln2")),
        *((name, _Matrix) for name in ("qkv", "proj", "widen", "narrow")),
    ]

    @classmethod
    def of(cls, layer: PreparedBlock) -> _Layer:
        matrices = (layer.qkv, layer.proj, layer.widen, layer.narrow)
        return cls(_Norm.of(layer.ln1), _Norm.of(layer.ln2), *map(_Matrix.of, matrices))


class _Network(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("n_layer", "n_head", "width", "weight_type", "cache_type", "n_threads")
        ),
        ("layers", ctypes.POINTER(_Layer)),
        ("ln_f", _Norm),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("n_rows", "slot", "max_length")),
        *(
            (name, ctypes.c_void_p)
            for name in ("keys", "values", "visible", "x", "hidden", "scratch")
        ),
    ]
