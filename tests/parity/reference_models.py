"""The transformers behind the published code's reference outputs."""

from __future__ import annotations

from pathlib import Path

from tats.models.gpt import GPT
from tats.models.transformer import Net2NetTransformer, load_transformer


def reference_transformer(goldens: Path, name: str) -> Net2NetTransformer:
    """Load one of the reference transformers with its first stage."""
    checkpoints = goldens / "ckpt"
    return load_transformer(
        checkpoints / f"{name}.ckpt",
        "" if name == "gpt_vtokens" else checkpoints / "vq_a.ckpt",
        checkpoints / "vq_stft.ckpt" if name == "gpt_stft" else "",
    )


def reference_gpt(goldens: Path, name: str) -> GPT:
    """Load the GPT of one of the reference transformers."""
    return reference_transformer(goldens, name).transformer
