"""The GPT that models video tokens, and the key-value cache it decodes with.

Parameter names (``tok_emb``, ``pos_emb``, ``vtokens_pos_emb``, ``blocks.{i}.ln1``,
``blocks.{i}.attn.key`` ...) are fixed by released checkpoints; everything else is ours to name.

The network is stated once, in ``GPT.layers(x, attend)``. The ways through it differ in ``attend``
alone, which is given a layer's new queries, keys and values: ``forward`` looks at the whole input
(training), ``forward_cached`` appends slots to a cache (sampling), and the engines of
``tats.sampling.engines`` do the latter for one token in ways of their own.

A *slot* is a place in the cache, in order of arrival; a *position* is the row of ``pos_emb`` a
token is given. They differ only where a sampler shows the model tokens from the far end of its
block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from tats.models.token_loss import Score, score_tokens

INIT_STD = 0.02

# Given queries, keys and values of new tokens, each (B, heads, S, head_dim), attends
# to what it may: (B, heads, S, head_dim). Where all layers share one, the layer's number is first.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
AttendInLayer = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def training_mask(
    block_size: int, n_unmasked: int = 0, device: torch.device | None = None
) -> Bool[Tensor, "block block"]:
    """Say which input position may look at which, as the model is trained.

    Causal. With ``n_unmasked = F > 0`` (a model that fills in the frames between two key frames
    of F tokens) every row sees columns 0..F and the last F-1 columns, and the last F-1 rows do
    not see the columns between these two groups.

    Args:
        block_size: rows and columns of the mask.
        n_unmasked: tokens of one key frame; 0 for a plain causal mask.
        device: where the mask is made.

    Returns:
        Bool (block_size, block_size), True where row may look at column.

    Source: Ge et al. §3.3; docs/DEVIATIONS.md D22 (n_unmasked 1 shows everything to every row,
    kept so that such checkpoints load).
    """
    mask = torch.ones(block_size, block_size, dtype=torch.bool, device=device).tril()
    if n_unmasked > 0:
        next_frame = block_size - n_unmasked + 1 if n_unmasked > 1 else 0
        mask[:, : n_unmasked + 1] = True
        mask[:, next_frame:] = True
        mask[next_frame:, n_unmasked + 1 : next_frame] = False
    return mask


class KVCache:
    """Keys and values of every token seen so far, in memory allocated once.

    Args:
        n_layer: layers of the model.
        batch_size: samples decoded together.
        n_head: attention heads.
        max_length: most slots that will be appended between two ``reset`` calls.
        head_dim: width of one head.
        device: where the memory is allocated.
        dtype: type of keys and values.
    """

    def __init__(
        self,
        *,
        n_layer: int,
        batch_size: int,
        n_head: int,
        max_length: int,
        head_dim: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (n_layer, batch_size, n_head, max_length, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.max_length = max_length
        self.length = 0

    def reset(self) -> None:
        """Forget every slot; the memory is kept."""
        self.length = 0

    def append(
        self,
        layer: int,
        keys: Float[Tensor, "B heads S head_dim"],
        values: Float[Tensor, "B heads S head_dim"],
    ) -> tuple[Float[Tensor, "B heads slots head_dim"], Float[Tensor, "B heads slots head_dim"]]:
        """Write one layer's new slots behind the known ones.

        Args:
            layer: index of the layer.
            keys: of the new slots.
            values: of the new slots.

        Returns:
            Keys and values of all slots so far, each a view.
        """
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Linear(nn.Linear):
    """A linear layer that may store its weights in a narrower type than it computes in."""

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        if x.dtype == self.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """A layer norm that may store its weights in a narrower type than it computes in."""

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        if x.dtype == self.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Int8Linear(nn.Module):
    """A linear layer whose weights are stored in 8 bits, with one scale an output channel.

    Args:
        linear: the layer it replaces.
    """

    weight: Tensor  # int8 (out, in)
    scale: Tensor  # float32 (out,): what one step of a channel's weights stands for

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        steps = (weight / scale[:, None]).round().clamp(-127, 127)
        self.register_buffer("weight", steps.to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        product = F.linear(x, self.weight.to(x.dtype))
        return product * self.scale.to(x.dtype) + self.bias.to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with separate, biased key, query and value projections."""

    def __init__(self, *, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.key = Linear(n_embd, n_embd)
        self.query = Linear(n_embd, n_embd)
        self.value = Linear(n_embd, n_embd)
        self.proj = Linear(n_embd, n_embd)

    def forward(self, x: Float[Tensor, "B S D"], attend: Attend) -> Float[Tensor, "B S D"]:
        """Mix along S, as ``attend`` does it."""
        y = attend(*self.projections(x))  # (B, heads, S, head_dim)
        return self.proj(rearrange(y, "b h s d -> b s (h d)"))

    def projections(
        self, x: Float[Tensor, "B S D"]
    ) -> tuple[
        Float[Tensor, "B heads S head_dim"],
        Float[Tensor, "B heads S head_dim"],
        Float[Tensor, "B heads S head_dim"],
    ]:
        """Project to queries, keys and values."""
        layers = (self.query, self.key, self.value)
        weight = None
        if isinstance(self.query, nn.Linear) and not torch.is_grad_enabled():
            weight = one_block([layer.weight for layer in layers])
            bias = one_block([layer.bias for layer in layers])
        if weight is not None and bias is not None and weight.dtype == x.dtype:
            parts = F.linear(x, weight, bias).chunk(3, dim=-1)
        else:
            parts = tuple(layer(x) for layer in layers)
        query, key, value = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in parts
        )
        return query, key, value


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, *, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.ln1 = LayerNorm(n_embd)
        self.ln2 = LayerNorm(n_embd)
        self.attn = Attention(n_embd=n_embd, n_head=n_head)
        self.mlp = nn.Sequential(Linear(n_embd, 4 * n_embd), nn.GELU(), Linear(4 * n_embd, n_embd))

    def forward(self, x: Float[Tensor, "B S D"], attend: Attend) -> Float[Tensor, "B S D"]:
        x = x + self.attn(self.ln1(x), attend)
        return x + self.mlp(self.ln2(x))


def one_block(tensors: Sequence[Shaped[Tensor, "n ..."]]) -> Shaped[Tensor, "N ..."] | None:
    """View tensors that lie one after another in memory as one; None if they do not."""
    first, address = tensors[0], tensors[0].data_ptr()
    storage = first.untyped_storage().data_ptr()
    for tensor in tensors:
        fits = tensor.data_ptr() == address and tensor.untyped_storage().data_ptr() == storage
        if not fits or tensor.dtype != first.dtype or not tensor.is_contiguous():
            return None
        address += tensor.nbytes
    shape = (sum(len(tensor) for tensor in tensors), *first.shape[1:])
    return first.detach().as_strided(shape, first.stride())


def join_(tensors: Sequence[Shaped[Tensor, "n ..."]]) -> Shaped[Tensor, "N ..."]:
    """Move tensors into one block of memory, each as a view of it; values and identity stay."""
    block = one_block(tensors)
    if block is None:
        block = torch.cat([tensor.detach() for tensor in tensors])
        for tensor, part in zip(tensors, block.split([len(t) for t in tensors]), strict=True):
            tensor.data = part
    return block


class GPT(nn.Module):
    """Next-token model over condition and video tokens.

    Args:
        vocab_size: condition vocabulary plus first-stage codes.
        block_size: longest input, in tokens (condition + video - 1).
        n_layer: transformer layers.
        n_head: attention heads; must divide ``n_embd``.
        n_embd: width D.
        n_unmasked: tokens of a key frame for an interpolation model, 0 for a causal model.
        vtokens_grid: (frames, rows, columns) of a learned embedding of a token's place in the
            video, or None for none.

    Raises:
        ValueError: ``n_embd`` is not a multiple of ``n_head``.

    Source: Ge et al. §3.2; sizes in the README's training commands.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        n_unmasked: int = 0,
        vtokens_grid: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd got {n_embd}; expected a multiple of n_head {n_head}")
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.n_unmasked = n_unmasked
        self.vtokens_grid = vtokens_grid
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        if vtokens_grid is not None:
            self.vtokens_pos_emb = nn.Parameter(torch.zeros(1, *vtokens_grid, n_embd))
        self.blocks = nn.ModuleList(Block(n_embd=n_embd, n_head=n_head) for _ in range(n_layer))
        self.ln_f = LayerNorm(n_embd)
        self.head = Linear(n_embd, vocab_size, bias=False)
        self.apply(_init_weights)

    def forward(
        self,
        tokens: Int[Tensor, "B S"],
        cbox: Int[Tensor, "B 4"] | None = None,
        tbox: Int[Tensor, "B 2"] | None = None,
        n_skipped: int = 0,
        target: Int[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"] | Score:
        """Predict the token after each input token, reading the whole input at once.

        Args:
            tokens, cbox, tbox: as for ``hidden``.
            n_skipped: leading tokens whose logits are not needed.
            target: int64 (B, S - n_skipped), the tokens to predict; None for all logits.

        Returns:
            Logits (B, S - n_skipped, vocab_size), or how well they predict the target.

        Raises:
            ValueError: as ``hidden``.
        """
        hidden = self.hidden(tokens, cbox=cbox, tbox=tbox)[:, n_skipped:]
        if target is None:
            return self.head(hidden)
        return score_tokens(hidden.flatten(0, 1), self.head.weight, target.flatten())

    def hidden(
        self,
        tokens: Int[Tensor, "B S"],
        cbox: Int[Tensor, "B 4"] | None = None,
        tbox: Int[Tensor, "B 2"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Read the whole input at once; ``head`` makes logits of what it returns.

        Args:
            tokens: int64 (B, S), S <= block_size: condition, then video tokens.
            cbox: int64 (B, 4), the crop (y0, y1, x0, x1) of the grid the video tokens come
                from; needed by models with a ``vtokens_grid`` and by no other.
            tbox: int64 (B, 2), the crop (t0, t1) in time; None for all frames.

        Returns:
            Hidden states after the last norm.

        Raises:
            ValueError: the input is longer than the block, or the crop does not fit the grid.
        """
        n_tokens = tokens.shape[1]
        if n_tokens > self.block_size:
            raise ValueError(
                f"input got {n_tokens} tokens; expected at most block_size {self.block_size}"
            )
        video_positions = self._crop_positions(cbox, tbox, n_tokens)
        x = self.embed(tokens, self.pos_emb[0, :n_tokens], video_positions)
        mask = None
        if self.n_unmasked > 0:
            corner = training_mask(self.block_size, self.n_unmasked, tokens.device)
            mask = corner[:n_tokens, :n_tokens]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None
            )

        return self.layers(x, attend)

    def layers(self, x: Float[Tensor, "B S D"], attend: AttendInLayer) -> Float[Tensor, "B S D"]:
        """Take embeddings through all layers and the last norm.

        Args:
            x: embeddings of some tokens.
            attend: how new tokens look at each other and at those before them.
        """
        for number, block in enumerate(self.blocks):
            x = block(x, functools.partial(attend, number))
        return self.ln_f(x)

    def forward_cached(
        self,
        tokens: Int[Tensor, "B S"],
        positions: Int[Tensor, " S"],
        cache: KVCache,
        mask: Bool[Tensor, "S slots"] | None = None,
        video_positions: Int[Tensor, " S"] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Append S slots to the cache and return their final hidden states.

        Args:
            tokens: int64 (B, S), the new tokens.
            positions: int64 (S,), the row of ``pos_emb`` each is given.
            cache: what came before; grows by S.
            mask: bool (S, slots so far + S), True = visible; None means causal.
            video_positions: int64 (S,), flat index in the ``vtokens_grid`` of the token each
                slot predicts; needed by models with such a grid and by no other.
            dtype: to compute in, where that is not the type weights are stored in.

        Returns:
            Hidden states (B, S, D) after the last norm; ``head`` turns them into logits.

        Raises:
            ValueError: the cache is full, or video_positions is missing or superfluous.
        """
        n_slots = cache.length + tokens.shape[1]
        if n_slots > cache.max_length:
            raise ValueError(f"cache got {n_slots} slots; expected at most {cache.max_length}")
        if (video_positions is None) != (self.vtokens_grid is None):
            raise ValueError("video_positions must be given exactly for models with a vtokens_grid")
        if mask is None and cache.length and tokens.shape[1] > 1:
            shape = (tokens.shape[1], n_slots)
            mask = torch.ones(shape, dtype=torch.bool, device=tokens.device).tril(cache.length)
        # A single query is the newest slot: causal means it sees every slot there is.
        causal = mask is None and tokens.shape[1] > 1

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key, value = (part.to(query.dtype) for part in cache.append(layer, key, value))
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=causal
            )

        x = self.embed(tokens, self.pos_emb[0, positions], video_positions)
        hidden = self.layers(x if dtype is None else x.to(dtype), attend)
        cache.length = n_slots
        return hidden

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """Allocate an empty cache that fits this model's device and dtype."""
        return KVCache(
            n_layer=self.n_layer,
            batch_size=batch_size,
            n_head=self.n_head,
            max_length=max_length,
            head_dim=self.n_embd // self.n_head,
            device=self.pos_emb.device,
            dtype=self.pos_emb.dtype,
        )

    def embed(
        self,
        tokens: Int[Tensor, "B S"],
        position_rows: Float[Tensor, "S D"],
        video_positions: Int[Tensor, "*B S"] | None,
    ) -> Float[Tensor, "B S D"]:
        """Embed tokens at rows of ``pos_emb``, and at places in the video where there is a grid."""
        x = self.tok_emb(tokens) + position_rows
        if video_positions is not None:
            x = x + self.vtokens_pos_emb.flatten(0, 3)[video_positions]
        return x

    def join_projections_(self) -> None:
        """Lay each layer's query, key and value weights out as one matrix; values stay."""
        for block in self.blocks:
            attention: Attention = block.attn  # type: ignore[assignment]
            layers = (attention.query, attention.key, attention.value)
            for name in ("weight", "scale", "bias"):
                if hasattr(layers[0], name):
                    join_([getattr(layer, name) for layer in layers])

    def quantize_(self) -> None:
        """Store the layers' matrices in 8 bits, for good: the model can no longer be trained."""
        for block in self.blocks:
            attention: Attention = block.attn  # type: ignore[assignment]
            mlp: nn.Sequential = block.mlp  # type: ignore[assignment]
            for name in ("query", "key", "value", "proj"):
                setattr(attention, name, Int8Linear(getattr(attention, name)))
            for index in (0, 2):
                mlp[index] = Int8Linear(mlp[index])  # type: ignore[arg-type]

    def _crop_positions(
        self, cbox: Tensor | None, tbox: Tensor | None, n_tokens: int
    ) -> Tensor | None:
        """Flat grid index (B, n_tokens) of each crop's first tokens, in raster order."""
        if self.vtokens_grid is None:
            if cbox is not None or tbox is not None:
                raise ValueError("cbox and tbox need a model with a vtokens_grid")
            return None
        if cbox is None:
            raise ValueError("cbox got None; expected (B, 4) for a model with a vtokens_grid")
        frames, rows, columns = self.vtokens_grid
        if tbox is None:
            tbox = cbox.new_tensor([0, frames]).expand(len(cbox), 2)
        boxes = torch.cat([tbox, cbox], dim=1)  # (B, 6): t0 t1 y0 y1 x0 x1
        starts, ends = boxes[:, ::2], boxes[:, 1::2]
        limits = boxes.new_tensor([frames, rows, columns])
        sizes = (ends - starts)[0]
        fits = (starts >= 0) & (ends <= limits) & (ends - starts == sizes) & (sizes > 0)
        if not bool(fits.all()) or n_tokens > int(sizes.prod()):
            raise ValueError(
                f"cbox/tbox got {boxes.tolist()} for {n_tokens} tokens; expected "
                f"crops of one size, that large, inside the grid {self.vtokens_grid}"
            )
        t, y, x = torch.meshgrid(*(torch.arange(int(n)) for n in sizes), indexing="ij")
        inside = ((t * rows + y) * columns + x).flatten()[:n_tokens].to(boxes.device)
        corner = (starts[:, 0] * rows + starts[:, 1]) * columns + starts[:, 2]
        return corner[:, None] + inside


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
