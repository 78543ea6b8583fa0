"""Peak memory of loading a transformer with its VQGAN for sampling, over the weights' own size.

Without --gpt_ckpt it writes random checkpoints of the published sizes first. What Python and torch
take before loading is not counted. Samples a few tokens and decodes a clip, to show that what was
loaded works. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tats.errors import UserError, one_line_errors
from tats.models.transformer import Net2NetTransformer, load_transformer
from tats.sampling import TokenFilter, fill, whole

MAKE_SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_readme_size_checkpoints.py"
STATUS = Path("/proc/self/status")


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpt_ckpt", help="transformer to load; default: a random one")
    parser.add_argument("--vqgan_ckpt", help="its VQGAN")
    parser.add_argument("--n_layer", type=int, default=24, help="blocks of the random transformer")
    parser.add_argument("--optimizer_states", action="store_true", help="store moments with it")
    parser.add_argument("--n_tokens", type=int, default=4, help="[tokens] to sample")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Load, measure, try out, and print the result."""
    args = build_parser().parse_args(argv)
    if not STATUS.exists():
        raise UserError("this measures memory by /proc; expected Linux")
    with tempfile.TemporaryDirectory() as folder:
        gpt_ckpt, vqgan_ckpt = args.gpt_ckpt, args.vqgan_ckpt
        if gpt_ckpt is None:
            command = [sys.executable, str(MAKE_SCRIPT), folder, f"--n_layer={args.n_layer}"]
            command += ["--optimizer_states"] * args.optimizer_states
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            gpt_ckpt, vqgan_ckpt = f"{folder}/transformer.ckpt", f"{folder}/vqgan.ckpt"
        before = memory_bytes("VmRSS")
        start = time.perf_counter()
        model = load_transformer(gpt_ckpt, vqgan_ckpt or "")
        seconds = time.perf_counter() - start
        peak = memory_bytes("VmHWM") - before
        file_bytes = Path(gpt_ckpt).stat().st_size if Path(gpt_ckpt).is_file() else None
        n_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        result = {
            "peak_over_weights": round(peak / n_bytes, 3),
            "peak_bytes": peak,
            "weights_bytes": n_bytes,
            "transformer_file_bytes": file_bytes,
            "load_seconds": round(seconds, 2),
            **try_out(model, args.n_tokens),
            "torch": torch.__version__,
        }
    print(json.dumps(result))


def memory_bytes(field: str) -> int:
    """Read one of this process's memory figures."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


@torch.inference_mode()
def try_out(model: Net2NetTransformer, n_tokens: int) -> dict[str, object]:
    """Sample a few tokens after one of each condition's, and decode one latent frame of them."""
    canvas = torch.full((1, n_tokens), -1)
    condition = torch.zeros(1, model.conditioner.n_tokens, dtype=torch.int64)
    offset = model.cond_vocab_size
    valid = (offset, offset + model.first_stage_vocab_size)
    tokens = fill(
        model.transformer, canvas, condition, whole(n_tokens), token_filter=TokenFilter(top_k=100),
        seeds=[0], valid_tokens=valid,
    )  # fmt: skip
    tried: dict[str, object] = {"tokens": (tokens - offset)[0].tolist()}
    if model.first_stage_model is not None:
        _, rows, columns = model.latent_shape
        codes = (tokens - offset)[0, torch.arange(rows * columns) % n_tokens]
        clip = model.first_stage_model.decode(codes.view(1, 1, rows, columns))
        tried |= {"clip": list(clip.shape), "clip_is_finite": bool(clip.isfinite().all())}
    return tried


if __name__ == "__main__":
    main()
