"""One decoding step on a CPU as one call of compiled code; ``cpu_step.cpp`` says why and how.

The code is compiled when TATS is installed, if there is a C++ compiler. Without it everything
still decodes, operation by operation, only more slowly; ``is_built`` says which it is. Weights may
be stored in bfloat16 or 8 bits; the arithmetic is float32.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tats.models.gpt import GPT, KVCache, join_
from tats.sampling.engines.plain import Engine
from tats.sampling.slots import SlotPlan

log = logging.getLogger(__name__)

VERSION = 1  # of the structures below; tats_version() of the build must be the same
WEIGHT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
PRODUCTS_PER_THREAD = 1 << 20  # fewer are not worth waking a thread for
X86 = ("x86_64", "AMD64")
CACHE_TYPES = {torch.float32: 0, torch.bfloat16: 1}


class CpuEngine(Engine):
    """Takes a token through all layers in one call of compiled code; see ``Engine``."""

    def __init__(self, gpt: GPT, **sizes: Any) -> None:
        super().__init__(gpt, **sizes)
        self._layers = CompiledLayers(gpt)
        self._head = StoredMatrix(gpt.head.weight[self.lowest_token : self.end_token], None, None)

    def begin(
        self,
        plan: SlotPlan,
        tokens: Int[Tensor, "B S"],
        keys: Int[Tensor, "B n 2"],
    ) -> Int[Tensor, " B"]:
        """Start a window, by the weights as they are now."""
        if self.gpt.pos_emb.dtype != torch.float32:
            # Norms and biases were widened, and edits of a tensor's ``.data`` are not counted.
            self._layers = CompiledLayers(self.gpt)
        return super().begin(plan, tokens, keys)

    @property
    def dtype(self) -> torch.dtype:
        """float32, in whatever type weights are stored."""
        return torch.float32

    def logits(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Logits of the tokens that may be drawn."""
        return self._head.few_rows(hidden)

    def _feed(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        assert self.plan is not None, "a window begins before it goes on"
        gpt, slot = self.gpt, self.cache.length
        mask, video_positions = self.plan.inputs(slot, slot + 1)
        positions = gpt.pos_emb[0, self.plan.positions[slot : slot + 1]]
        x = gpt.embed(token[:, None], positions, video_positions)
        hidden = self._layers.step(x[:, 0].float(), self.cache, None if mask is None else mask[0])
        self.cache.length += 1
        return hidden


@dataclass(frozen=True)
class StoredMatrix:
    """A linear layer in the form the compiled step reads.

    Args:
        weight: (out, in) float32, bfloat16 or int8.
        scale: float32 (out,), what one step of an int8 weight stands for; None for other types.
        bias: float32 (out,), or None.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, *layers: Any) -> StoredMatrix:
        """View linear layers, perhaps ``Int8Linear`` ones, whose parts lie side by side as one."""

        def part(name: str) -> Tensor | None:
            parts = [getattr(layer, name).detach() for layer in layers if hasattr(layer, name)]
            return join_(parts) if parts else None

        weight, scale, bias = (part(name) for name in ("weight", "scale", "bias"))
        assert weight is not None
        return cls(weight, *(None if p is None else p.float() for p in (scale, bias)))

    def few_rows(self, x: Float[Tensor, "B I"]) -> Float[Tensor, "B O"]:
        """Multiply float32 rows as the compiled step does."""
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

    Its matrices are the model's own, so no second copy is held.

    Args:
        gpt: on the CPU; its projections are joined.
    """

    def __init__(self, gpt: GPT) -> None:
        gpt.join_projections_()
        self._tensors: list[Any] = []  # the structures only point to them
        blocks: Any = gpt.blocks
        self._layers = (_Layer * len(blocks))(*map(self._layer, blocks))
        ln_f = self._norm(gpt.ln_f)
        self._net = _Network(
            n_layer=gpt.n_layer,
            n_head=gpt.n_head,
            width=gpt.n_embd,
            weight_type=WEIGHT_TYPES[blocks[0].attn.proj.weight.dtype],
            layers=self._layers,
            ln_f=ln_f,
        )

    def _layer(self, block: Any) -> _Layer:
        attention, mlp = block.attn, block.mlp
        matrices = [
            StoredMatrix.of(attention.query, attention.key, attention.value),
            *(StoredMatrix.of(layer) for layer in (attention.proj, mlp[0], mlp[2])),
        ]
        self._tensors += matrices
        norms = (self._norm(block.ln1), self._norm(block.ln2))
        return _Layer(*norms, *map(_Matrix.of, matrices))

    def _norm(self, norm: nn.LayerNorm) -> _Norm:
        weight, bias = norm.weight.detach().float(), norm.bias.detach().float()
        self._tensors += [weight, bias]
        return _Norm(_address(weight), _address(bias), norm.eps)

    def step(
        self, x: Float[Tensor, "B D"], cache: KVCache, visible: Bool[Tensor, " slots"] | None
    ) -> Float[Tensor, "B D"]:
        """Append one slot to the cache.

        Args:
            x: embeddings of the new tokens, float32.
            cache: keys and values of the slots before; its length stays as it is.
            visible: of the slots so far and the new one, True where it may look; None: everywhere.

        Returns:
            Hidden states, float32.
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


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("ln1", "ln2")),
        *((name, _Matrix) for name in ("qkv", "proj", "widen", "narrow")),
    ]


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
