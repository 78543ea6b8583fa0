"""Models small enough for tests."""

from __future__ import annotations

import torch

from tats.models.gpt import GPT


def small_gpt(**changes) -> GPT:
    """A GPT in eval mode whose weights are large enough to tell inputs apart."""
    settings = {"vocab_size": 11, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
    gpt = GPT(**{**settings, **changes}).eval()
    for name, parameter in gpt.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return gpt
