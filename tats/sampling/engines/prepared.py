"""A GPT's weights in the form that decodes fastest, and the same way through the network.

Query, key and value projections are one matrix product. On a CPU a token is one call of compiled
code (``cpu_step``), or else weights are packed once into the block format its matrix library reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tats.models.gpt import GPT, KVCache
from tats.sampling.engines import cpu as cpu_step
from tats.sampling.engines.cpu import CompiledLayers, StoredMatrix

WeightFormat = Literal["full", "int8"]
Project = Callable[[Tensor], Tensor]  # (..., in) to (..., out)

PACKED_ROWS = 16  # rows of input the packed format is laid out for; any number works


@dataclass(frozen=True)
class PreparedBlock:
    """One transformer layer, ready to decode."""

    ln1: nn.LayerNorm
    ln2: nn.LayerNorm
    qkv: Project
    proj: Project
    widen: Project
    narrow: Project


class PreparedGPT:
    """Decodes like the GPT it was made of, only faster; ``GPT.forward_cached`` says how.

    Args:
        gpt: on its device, in its dtype, in eval mode.
        weights: ``full`` keeps the GPT's precision; ``int8`` stores the layers' matrices in 8
            bits, one scale an output channel.
        release: free each of the GPT's matrices once it is prepared, so that no second copy of
            the model is held; the GPT cannot be used afterwards.

    Raises:
        ValueError: int8 weights are not available on this device.

    On a CPU, bfloat16 and int8 are ways to store numbers; the compiled step computes in float32.
    """

    def __init__(self, gpt: GPT, *, weights: WeightFormat = "full", release: bool = False) -> None:
        self.vocab_size, self.block_size = gpt.vocab_size, gpt.block_size
        self.n_layer, self.n_head, self.n_embd = gpt.n_layer, gpt.n_head, gpt.n_embd
        self.n_unmasked, self.vtokens_grid = gpt.n_unmasked, gpt.vtokens_grid
        self.tok_emb, self.pos_emb, self.head = gpt.tok_emb, gpt.pos_emb, gpt.head
        self.vtokens_pos_emb = None if gpt.vtokens_grid is None else gpt.vtokens_pos_emb
        self.new_cache: Callable[[int, int], KVCache] = gpt.new_cache
        self.kept_step: tuple[Any, Any] | None = None  # see ``static_step``
        device, dtype = gpt.pos_emb.device, gpt.pos_emb.dtype
        compiled = device.type == "cpu" and dtype in cpu_step.CACHE_TYPES and cpu_step.is_built()
        make = _maker(device, dtype, weights, compiled)

        def prepared(*linears: nn.Linear) -> Project:
            weight = torch.cat([linear.weight.detach() for linear in linears])
            bias = torch.cat([linear.bias.detach() for linear in linears])
            if release:
                for linear in linears:
                    linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
            return make(weight, bias)

        def norm(layer: nn.LayerNorm) -> nn.LayerNorm:
            return copy.deepcopy(layer).float() if compiled else layer

        blocks: Any = gpt.blocks
        self.blocks = [
            PreparedBlock(
                ln1=norm(block.ln1),
                ln2=norm(block.ln2),
                qkv=prepared(block.attn.query, block.attn.key, block.attn.value),
                proj=prepared(block.attn.proj),
                widen=prepared(block.mlp[0]),
                narrow=prepared(block.mlp[2]),
            )
            for block in blocks
        ]
        self.ln_f = norm(gpt.ln_f)
        self.compiled: CompiledLayers | None = None
        if compiled:
            self.compiled = CompiledLayers(self.blocks, self.ln_f, n_head=self.n_head)

    @torch.no_grad()
    def forward_cached(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: KVCache,
        mask: Tensor | None = None,
        video_positions: Tensor | None = None,
    ) -> Tensor:
        """Append S slots to the cache and return their final hidden states, as the GPT does."""
        n_new = tokens.shape[1]
        n_slots = cache.length + n_new
        if n_slots > cache.max_length:
            raise ValueError(f"cache got {n_slots} slots; expected at most {cache.max_length}")
        if mask is None and cache.length and n_new > 1:
            shape = (n_new, n_slots)
            mask = torch.ones(shape, dtype=torch.bool, device=tokens.device).tril(cache.length)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key, value = cache.append(layer, key, value)
            causal = mask is None and n_new > 1
            return F.scaled_dot_product_attention(
                query, key.to(query.dtype), value.to(query.dtype), attn_mask=mask, is_causal=causal
            )

        x = self.embed(tokens, positions, video_positions)
        if self.compiled is not None and n_new == 1:
            visible = None if mask is None else mask[0]
            x = self.compiled.step(x[:, 0], cache, visible)[:, None]
        else:
            x = self.layers(x, attend)
        cache.length = n_slots
        return x

    def embed(self, tokens: Tensor, positions: Tensor, video_positions: Tensor | None) -> Tensor:
        """Embed tokens (B, S) given rows (S,) of the position embeddings; (B, S, D)."""
        x = self.tok_emb(tokens) + self.pos_emb[0, positions]
        if self.vtokens_pos_emb is not None:
            assert video_positions is not None, "a model with a vtokens_grid needs places in it"
            x = x + self.vtokens_pos_emb.flatten(0, 3)[video_positions]
        return x if self.compiled is None else x.float()

    def head_for(self, lowest: int, highest: int) -> Project:
        """The output layer for tokens lowest .. highest - 1: hidden states (B, D) to logits."""
        weight = self.head.weight[lowest:highest]
        if self.compiled is None:
            return lambda hidden: F.linear(hidden, weight)
        return StoredMatrix(weight, None, None).few_rows

    def layers(self, x: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Take embeddings (B, S, D) through all layers and the last norm.

        Args:
            x: (B, S, D).
            attend: given the layer and its new queries, keys and values, each (B, heads, S,
                head_dim), stores and looks at what it must; (B, heads, S, head_dim).
        """
        n_samples, n_new, width = x.shape
        per_head = (n_samples, n_new, 3, self.n_head, width // self.n_head)
        for layer, block in enumerate(self.blocks):
            # (3, B, heads, S, head_dim); plain views, since this runs for every layer and token
            qkv = block.qkv(_norm(block.ln1, x)).view(per_head).permute(2, 0, 3, 1, 4)
            y = attend(layer, *qkv.unbind(0))
            x = x + block.proj(y.transpose(1, 2).reshape(x.shape))
            x = x + block.narrow(F.gelu(block.widen(_norm(block.ln2, x))))
        return _norm(self.ln_f, x)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _maker(
    device: torch.device, dtype: torch.dtype, weights: WeightFormat, compiled: bool
) -> Callable[[Tensor, Tensor], Project]:
    """Choose how a weight (out, in) and a bias (out,) become a projection."""
    if compiled:
        return _stored_in_8_bits if weights == "int8" else _stored
    if weights == "int8":
        if device.type == "cpu":
            raise ValueError(
                "8-bit weights on a CPU need the compiled decoding step; install a C++ compiler "
                "and run `pip install -e .` again"
            )
        return _int8_on_gpu
    if device.type == "cpu" and dtype == torch.float32 and _can_pack():
        return _packed_on_cpu
    return lambda weight, bias: lambda x: F.linear(x, weight, bias)


def _stored(weight: Tensor, bias: Tensor) -> Project:
    return StoredMatrix(weight, None, bias.float())


def _stored_in_8_bits(weight: Tensor, bias: Tensor) -> Project:
    scale = _channel_scales(weight)
    return StoredMatrix(_in_8_bits(weight.float(), scale), scale, bias.float())


def _can_pack() -> bool:
    ops = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(
        hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def _packed_on_cpu(weight: Tensor, bias: Tensor) -> Project:
    ops: Any = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight, PACKED_ROWS)
    return lambda x: ops._linear_pointwise(x, packed, bias, "none", [], "")


def _int8_on_gpu(weight: Tensor, bias: Tensor) -> Project:
    """8-bit weights, widened as they are read."""
    scale = _channel_scales(weight).to(weight.dtype)
    quantized = _in_8_bits(weight, scale)
    return lambda x: F.linear(x, quantized.to(x.dtype)) * scale + bias


def _in_8_bits(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)


def _channel_scales(weight: Tensor) -> Tensor:
    """Step of each output channel's 8-bit values, float32 (out,)."""
    return weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
