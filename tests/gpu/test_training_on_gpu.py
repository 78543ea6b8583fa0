"""The training scripts on a GPU, in every number format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from load_script import load_script
from small_data import write_video_folders

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RUN = "--gpus 1 --max_steps 2 --num_workers 0 --progress_bar_refresh_rate 0 --sync_batchnorm"
CLIP = "--resolution 16 --sequence_length 8 --batch_size 2 --gradient_clip_val 1"
VQGAN = (
    "--embedding_dim 8 --n_codes 32 --n_hiddens 4 --norm_type batch --disc_channels 4"
    " --disc_layers 2 --discriminator_iter_start 1 --gan_feat_weight 4"
)
GPT = "--block_size 32 --n_layer 1 --n_head 2 --n_embd 16"


FORMATS = {
    "32": torch.float32,
    "bf16": torch.float32,
    "16": torch.float32,
    "64": torch.float64,
    "bf16-true": torch.bfloat16,
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", FORMATS)
def test_both_stages_train_and_leave_finite_weights(
    tmp_path: Path, precision: str, accumulate: int
) -> None:
    names = [f"{split}/{name}" for split in ("train", "test") for name in ("cats/a", "dogs/b")]
    write_video_folders(tmp_path / "videos", dict.fromkeys(names, 11))
    command = f"--data_path {tmp_path}/videos --precision {precision} {RUN} {CLIP}"
    command += f" --accumulate_grad_batches {accumulate}"
    last = "lightning_logs/version_0/checkpoints/last.ckpt"
    vqgan, gpt = tmp_path / "vqgan" / last, tmp_path / "gpt" / last
    stages = {
        vqgan: ("train_vqgan.py", f"--default_root_dir {tmp_path}/vqgan {VQGAN}"),
        gpt: ("train_transformer.py", f"--default_root_dir {tmp_path}/gpt --vqvae {vqgan} {GPT}"),
    }
    for written, (script, flags) in stages.items():
        load_script(script).main(f"{command} {flags}".split())
        content = torch.load(written, weights_only=True, map_location="cpu")
        assert content["global_step"] == 2
        for name, tensor in content["state_dict"].items():
            if tensor.is_floating_point():
                is_data = name.startswith(("codebook.", "first_stage_model."))
                expected = torch.float32 if is_data else FORMATS[precision]
                assert tensor.dtype == expected and tensor.isfinite().all(), name
