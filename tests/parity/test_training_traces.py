"""Whole training runs against those of the published training loop (its own Trainer)."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from tats.models.transformer import load_transformer
from tats.models.vqgan import VQGAN

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def fixed_order(**tensors: torch.Tensor) -> DataLoader:
    """Batches in the recorded order, the same every epoch."""
    rows = zip(*tensors.values(), strict=True)
    batches = [dict(zip(tensors, row, strict=True)) for row in rows]
    return DataLoader(batches, batch_size=None)


class RecordingVQGAN(VQGAN):
    """Remembers every loss, and when it was computed."""

    def __init__(self, args) -> None:
        super().__init__(args)
        self.calls: list[tuple[int, int, int, int]] = []
        self.losses: list[float] = []

    def _remember(self, optimizer: int, losses):
        loop = self.trainer.fit_loop
        batch = loop.epoch_loop.batch_idx
        self.calls.append((self.current_epoch, batch, optimizer, self.global_step))
        self.losses.append(float(losses.total))
        return losses

    def generator_losses(self, *args, **kwargs):
        return self._remember(0, super().generator_losses(*args, **kwargs))

    def discriminator_losses(self, *args, **kwargs):
        return self._remember(1, super().discriminator_losses(*args, **kwargs))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tag", ["vqgan_acc1", "vqgan_acc3"])
def test_vqgan_training_follows_the_published_run(reference, parity, tag):
    trace = reference.json(f"train/{tag}.json")
    data = reference.tensors(f"train/{tag}_data.safetensors")
    settings = {k: trace[k] for k in ("accumulate_grad_batches", "gradient_clip_val", "lr")}
    vqgan = RecordingVQGAN({**trace["args"], **settings})
    vqgan.load_state_dict(reference.tensors(f"train/{tag}_init.safetensors"))
    frames = iter(data["frame_idx"])
    norms: list[float] = []

    largest_gradient = dict.fromkeys(vqgan.state_dict(), 0.0)

    def recording_clip(parameters, limit):
        given = {id(parameter) for parameter in parameters}
        for name, parameter in vqgan.named_parameters():
            if id(parameter) in given:
                norm = float(parameter.grad.norm())
                largest_gradient[name] = max(largest_gradient[name], norm)
        norms.append(float(clip(parameters, limit)))

    clip = torch.nn.utils.clip_grad_norm_
    with (
        patch("tats.models.vqgan._random_frames", lambda video: next(frames)),
        patch("torch.nn.utils.clip_grad_norm_", recording_clip),
    ):
        trainer = pl.Trainer(max_epochs=trace["max_epochs"], **QUIET)
        trainer.fit(vqgan, fixed_order(video=data["videos"]))

    assert [list(call) for call in vqgan.calls] == trace["calls_epoch_batch_opt_globalstep"]
    assert trainer.global_step == trace["final_trainer_global_step"]
    group = "training trace, VQGAN"
    losses = torch.tensor(trace["loss_per_call"])
    parity.close(f"{group}: losses", torch.tensor(vqgan.losses), losses, rtol=2e-4)
    want = torch.tensor([norm for *_, norm in trace["grad_norm_before_clip_opt_globalstep_norm"]])
    parity.close(f"{group}: gradient norms", torch.tensor(norms), want, rtol=1e-3, atol=1e-5)
    state = vqgan.state_dict()
    for name, want in reference.tensors(f"train/{tag}_final.safetensors").items():
        if name == "codebook.N":
            parity.close(f"{group}: codebook counts", state[name], want, rtol=0, atol=1e-6)
        elif name.endswith("num_batches_tracked"):
            parity.exact(f"{group}: batches counted", state[name], want)
        elif name.endswith("running_mean") or 0 < largest_gradient[name] < 1e-4:
            # Batch norm takes this bias away again: its true gradient is 0, and Adam turns
            # float noise into steps of up to lr, which the running means then carry.
            assert name.endswith((".bias", "running_mean"))
            atol = trace["lr"] * trace["final_trainer_global_step"]
            parity.close(
                f"{group}: biases without effect, running means",
                state[name],
                want,
                rtol=0,
                atol=atol,
            )
        else:
            parity.close(f"{group}: weights", state[name], want, rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_transformer_training_follows_the_published_run(reference, parity):
    trace = reference.json("train/gpt_label.json")
    data = reference.tensors("train/gpt_label_data.safetensors")
    folder = reference.folder / "ckpt"
    model = load_transformer(folder / "gpt_label.ckpt", folder / "vq_a.ckpt")
    model.transformer.load_state_dict(reference.tensors("train/gpt_label_init.safetensors"))
    model.learning_rate = trace["lr"]
    seen: list[list[float]] = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            self.step = trainer.global_step

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            # Lightning reports the loss divided by the accumulation.
            loss = float(outputs["loss"]) * trace["accumulate_grad_batches"]
            seen.append([trainer.current_epoch, batch_index, self.step, loss])

    with patch.object(type(model), "video_codes", lambda self, codes: codes):
        trainer = pl.Trainer(
            max_epochs=trace["max_epochs"],
            accumulate_grad_batches=trace["accumulate_grad_batches"],
            callbacks=[Recorder()],
            **QUIET,
        )
        trainer.fit(model.train(), fixed_order(video=data["z_indices"], label=data["labels"]))

    calls = trace["calls_epoch_batch_globalstep_loss"]
    assert [call[:3] for call in seen] == [call[:3] for call in calls]
    assert trainer.global_step == trace["final_trainer_global_step"]
    got, want = (torch.tensor([call[3] for call in log]) for log in (seen, calls))
    parity.close("training trace, transformer: losses", got, want, rtol=2e-4)
    state = model.transformer.state_dict()
    for name, want in reference.tensors("train/gpt_label_final.safetensors").items():
        if name.endswith("attn.key.bias"):  # softmax ignores it: its true gradient is 0
            atol = trace["lr"] * trace["final_trainer_global_step"]
            parity.close(
                "training trace, transformer: key biases", state[name], want, rtol=0, atol=atol
            )
        elif not name.endswith("attn.mask"):
            parity.close(
                "training trace, transformer: weights", state[name], want, rtol=0, atol=2e-4
            )
