#!/usr/bin/env python
"""Write a VQGAN and a transformer of the published sizes, in the released files' layout.

    python scripts/make_readme_size_checkpoints.py FOLDER

Weights are random; names, shapes, masks, the copy of the VQGAN in the transformer's file and the
settings are as released. They show what loading, slimming and sampling cost without the files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tats.errors import UserError, one_line_errors
from tats.models.gpt import GPT, training_mask
from tats.models.lpips import LPIPS
from tats.models.vqgan import VQGAN
from tats.paths import atomic_path

VQGAN_SETTINGS: dict[str, Any] = {
    "embedding_dim": 256, "n_codes": 16384, "n_hiddens": 32, "downsample": [4, 8, 8],
    "no_random_restart": True, "resolution": 128, "sequence_length": 16, "norm_type": "batch",
    "perceptual_weight": 4.0, "gan_feat_weight": 4.0, "discriminator_iter_start": 10000,
}  # fmt: skip
GPT_SETTINGS: dict[str, Any] = {
    "unconditional": True, "vocab_size": 16384, "block_size": 1024, "n_layer": 24, "n_head": 16,
    "n_embd": 1024, "resolution": 128, "sequence_length": 16,
}  # fmt: skip
Shapes = dict[str, tuple[list[int], str]]


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(description="Write checkpoints of the published sizes.")
    parser.add_argument("folder", type=Path, help="receives vqgan.ckpt and transformer.ckpt")
    parser.add_argument(
        "--keys",
        type=Path,
        help="folder of vqgan_readme.json and gpt_readme.json, lists of names and shapes to write; "
        "default: those of this project's models",
    )
    parser.add_argument("--n_layer", type=int, default=24, help="transformer blocks")
    parser.add_argument(
        "--optimizer_states", action="store_true", help="also write the transformer's moments"
    )
    return parser


def vqgan_shapes() -> Shapes:
    """Names and shapes of everything in a released VQGAN."""
    with torch.device("meta"):
        vqgan = VQGAN(VQGAN_SETTINGS, perceptual_model=LPIPS())
    return _shapes(vqgan)


def gpt_shapes(n_layer: int) -> Shapes:
    """Names and shapes of everything in a released transformer, its masks among them."""
    settings = ("vocab_size", "block_size", "n_head", "n_embd")
    with torch.device("meta"):
        gpt = GPT(n_layer=n_layer, **{name: GPT_SETTINGS[name] for name in settings})
    side = GPT_SETTINGS["block_size"]
    masks: Shapes = {
        f"blocks.{i}.attn.mask": ([1, 1, side, side], "float32") for i in range(n_layer)
    }
    return {**_shapes(gpt), **masks}


def _shapes(module: torch.nn.Module) -> Shapes:
    return {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in module.state_dict().items()
    }


def read_shapes(file: Path, n_layer: int) -> Shapes:
    """Read a list of names and shapes, without the blocks past ``n_layer``."""
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--keys: {file} cannot be read ({error}); expected a JSON list") from None
    return {
        name: entry
        for name, entry in listed.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < n_layer
    }


def random_state(shapes: Shapes) -> dict[str, Tensor]:
    """Draw weights for which the networks' activations stay near one."""
    state = {}
    for name, (shape, dtype) in sorted(shapes.items()):
        if name.endswith("attn.mask"):
            state[name] = training_mask(shape[-1]).float().view(shape)
        elif dtype != "float32":
            state[name] = torch.ones(shape, dtype=getattr(torch, dtype))
        elif name.endswith(("running_var", "codebook.N")) or (len(shape) == 1 and "weight" in name):
            state[name] = torch.ones(shape)
        elif len(shape) == 1:
            state[name] = torch.zeros(shape)
        else:
            width = max(torch.Size(shape[1:]).numel(), 1)
            state[name] = torch.empty(shape).normal_(std=0.02 if len(shape) < 4 else width**-0.5)
    return state


def adam_states(state: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Moments of the transformer's own weights, as the published Trainer stored them."""
    names = [name for name in state if not name.endswith("attn.mask")]
    moments = {
        i: {"step": 7, "exp_avg": state[name] * 0.01, "exp_avg_sq": state[name] ** 2}
        for i, name in enumerate(names)
    }
    return [{"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}]


def write(path: Path, state: dict[str, Tensor], settings: dict[str, Any], **others: Any) -> None:
    """Write one checkpoint as Lightning 1.5 did."""
    content = {
        "epoch": 1,
        "global_step": 8,
        "pytorch-lightning_version": "1.5.4",
        "state_dict": state,
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"args": argparse.Namespace(**settings)},
    }
    content["hyper_parameters"].update(others.pop("hyper_parameters", {}))  # type: ignore[attr-defined]
    with atomic_path(path) as temporary:
        torch.save({**content, **others}, temporary)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write both files and print one line of JSON about them."""
    args = build_parser().parse_args(argv)
    if args.n_layer < 1:
        raise UserError(f"--n_layer got {args.n_layer}; expected at least 1")
    torch.manual_seed(0)
    keys: Path | None = args.keys
    vqgan = random_state(
        read_shapes(keys / "vqgan_readme.json", args.n_layer) if keys else vqgan_shapes()
    )
    gpt = random_state(
        read_shapes(keys / "gpt_readme.json", args.n_layer) if keys else gpt_shapes(args.n_layer)
    )
    files = {"vqgan": args.folder / "vqgan.ckpt", "transformer": args.folder / "transformer.ckpt"}
    write(files["vqgan"], vqgan, VQGAN_SETTINGS)
    write(
        files["transformer"],
        {
            **{f"transformer.{name}": tensor for name, tensor in gpt.items()},
            **{f"first_stage_model.{name}": tensor for name, tensor in vqgan.items()},
        },
        {**GPT_SETTINGS, "n_layer": args.n_layer},
        hyper_parameters={"first_stage_key": "video", "cond_stage_key": "label", "pkeep": 1.0},
        optimizer_states=adam_states(gpt) if args.optimizer_states else [],
    )
    print(json.dumps({name: [str(f), f.stat().st_size] for name, f in files.items()}))


if __name__ == "__main__":
    main()
