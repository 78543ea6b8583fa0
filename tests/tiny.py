"""The smallest models that still have every part, shared by tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tats.models.transformer import Net2NetTransformer
from tats.models.vqgan import VQGAN

VQGAN_FLAGS: dict[str, Any] = {
    "embedding_dim": 8, "n_codes": 32, "n_hiddens": 4, "downsample": (4, 4, 4),
    "disc_channels": 4, "disc_layers": 2, "norm_type": "batch", "no_random_restart": True,
    "resolution": 16, "sequence_length": 16, "lr": 1e-3,
}  # fmt: skip
GPT_FLAGS: dict[str, Any] = {
    "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 64, "resolution": 16,
    "sequence_length": 16,
}  # fmt: skip


def tiny_vqgan(**flags: Any) -> VQGAN:
    """A VQGAN in eval mode whose codebook counts as trained."""
    vqgan = VQGAN({**VQGAN_FLAGS, **flags})
    vqgan.codebook.N.fill_(1.0)
    return vqgan.eval()


def tiny_transformer(
    vqgan: VQGAN | None = None, *, cond_stage_key: str = "label", **flags: Any
) -> Net2NetTransformer:
    """A transformer in eval mode: 4×4×4 latents, random weights."""
    stft = flags.pop("cond_stage_model", None)
    model = Net2NetTransformer(
        {**GPT_FLAGS, **flags},
        cond_stage_key=cond_stage_key,
        first_stage_model=None if flags.get("vtokens") else vqgan or tiny_vqgan(),
        cond_stage_model=stft,
    )
    for parameter in model.transformer.parameters():  # far from uniform, to tell tokens apart
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_checkpoint(model: VQGAN | Net2NetTransformer, path: Path) -> Path:
    """Write a model as training would."""
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "epoch": 0,
        "global_step": 1,
    }
    torch.save(content, path)
    return path


@torch.no_grad()
def attend_sharply(gpt: torch.nn.Module) -> None:
    """Let single tokens matter among hundreds."""
    for name, parameter in gpt.named_parameters():
        if name.endswith(("query.weight", "key.weight", "value.weight")):
            parameter.mul_(8)
