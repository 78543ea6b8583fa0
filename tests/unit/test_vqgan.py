"""The VQGAN as a user meets it, and the order of things in its training step."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from tiny import VQGAN_FLAGS, save_checkpoint, tiny_vqgan
from torch.utils.data import DataLoader

from tats.errors import UserError
from tats.models.lpips import LPIPS
from tats.models.vqgan import VQGAN, load_vqgan


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, 16) - 0.5


@torch.no_grad()
def test_codes_decode_to_the_clip_shape_and_embeddings_are_the_codes_rows(video):
    vqgan = tiny_vqgan()
    codes = vqgan.encode(video)
    assert codes.shape == (2, *vqgan.latent_shape) == (2, 4, 4, 4)
    assert codes.dtype == torch.int64
    assert vqgan.decode(codes).shape == video.shape
    embeddings, again = vqgan.encode(video, include_embeddings=True)
    assert torch.equal(again, codes)
    assert torch.equal(embeddings.movedim(1, -1), vqgan.codebook.embeddings[codes])


@torch.no_grad()
def test_a_clip_twice_as_long_has_the_same_codes_away_from_the_ends():
    vqgan = tiny_vqgan()
    video = torch.rand(1, 3, 96, 16, 16) - 0.5
    whole, part = vqgan.encode(video), vqgan.encode(video[:, :, 16:64])
    assert torch.equal(part[:, 5:-5], whole[:, 9:11])


def test_misfitting_video_and_codes_are_refused_with_what_was_expected(video):
    vqgan = tiny_vqgan()
    with pytest.raises(ValueError, match=r"divisible by \(4, 4, 4\)"):
        vqgan.encode(video[:, :, :15])
    with pytest.raises(ValueError, match="expected 3 channels"):
        vqgan.encode(video[:, :1])
    with pytest.raises(ValueError, match=r"expected 0\.\.31"):
        vqgan.decode(torch.full((1, 4, 4, 4), 32))


def test_saving_and_loading_gives_the_same_model(tmp_path, video):
    vqgan = tiny_vqgan()
    loaded = load_vqgan(save_checkpoint(vqgan, tmp_path / "vqgan.ckpt"), device="cpu")
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded.encode(video), vqgan.encode(video))
        assert torch.equal(loaded.reconstruct(video), vqgan.reconstruct(video))
    assert not any("discriminator" in name for name, _ in loaded.named_parameters())


def test_an_untrained_vqgan_is_refused(tmp_path):
    path = save_checkpoint(VQGAN(VQGAN_FLAGS), tmp_path / "fresh.ckpt")
    with pytest.raises(UserError, match="never trained"):
        load_vqgan(path)


def fit(vqgan: VQGAN, videos: torch.Tensor, **trainer_flags) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_flags,
    )
    batches = [{"video": batch} for batch in videos]
    trainer.fit(vqgan, DataLoader(batches, batch_size=None))
    return trainer


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_one_training_step_is_both_updates_and_counts_once():
    vqgan = VQGAN({**VQGAN_FLAGS, "discriminator_iter_start": 0})
    before = {name: p.detach().clone() for name, p in vqgan.named_parameters()}
    trainer = fit(vqgan, torch.rand(2, 2, 3, 16, 16, 16) - 0.5, max_steps=2)
    assert trainer.global_step == 2
    for name, parameter in vqgan.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} did not train"


def test_discriminators_rest_until_their_start_but_see_batches():
    vqgan = VQGAN({**VQGAN_FLAGS, "discriminator_iter_start": 5})
    before = {n: p.detach().clone() for n, p in vqgan.image_discriminator.named_parameters()}
    fit(vqgan, torch.rand(3, 2, 3, 16, 16, 16) - 0.5, max_epochs=1)
    for name, parameter in vqgan.image_discriminator.named_parameters():
        assert torch.equal(parameter, before[name])
    # Per batch: fake and real in the generator's step, real and fake in the discriminators'.
    assert vqgan.image_discriminator.get_submodule("model1.1").num_batches_tracked == 12
    assert vqgan.encoder.final_block[0].num_batches_tracked == 6  # two forwards a batch


@pytest.mark.parametrize("start", [0, 5])
def test_the_autoencoder_takes_gradients_of_the_gan_from_its_start_on_and_not_before(video, start):
    vqgan = VQGAN({**VQGAN_FLAGS, "discriminator_iter_start": start}).train()
    frames = torch.zeros(len(video), dtype=torch.int64)
    result = vqgan(video)
    logged = vqgan.generator_losses(video, result, frames, step=0).logged
    assert logged["g_video_loss"].requires_grad is (start == 0)
    # The discriminators' own step takes gradients all the same, and they are zero before.
    losses = vqgan.discriminator_losses(video, result.video, frames, step=0)
    assert losses.logged["d_video_loss"] > 0
    losses.total.backward()
    gradients = [p.grad.abs().max() for p in vqgan.video_discriminator.parameters()]
    assert (max(gradients) > 0) == (start == 0)


def test_a_perceptual_loss_needs_its_model(video):
    vqgan = VQGAN({**VQGAN_FLAGS, "perceptual_weight": 1.0})
    with pytest.raises(UserError, match=r"expected VQGAN\(args, perceptual_model=load_lpips\(\)\)"):
        vqgan.generator_losses(video, vqgan(video), torch.zeros(2, dtype=torch.int64), step=0)


def test_the_learning_rate_given_wins_over_the_flag_and_is_not_stored():
    vqgan = VQGAN({**VQGAN_FLAGS, "lr": 1e-3}, learning_rate=5e-4)
    assert [o.param_groups[0]["lr"] for o in vqgan.configure_optimizers()] == [5e-4, 5e-4]
    assert vqgan.hparams["args"]["lr"] == 1e-3
    assert VQGAN({**VQGAN_FLAGS, "lr": 1e-3}).learning_rate == 1e-3


def test_accumulating_over_two_batches_gives_the_gradient_of_the_joint_batch():
    flags = {**VQGAN_FLAGS, "n_hiddens": 16, "norm_type": "group", "discriminator_iter_start": 9}
    videos = torch.rand(2, 1, 3, 16, 16, 16) - 0.5
    joint = VQGAN(flags)
    parts = VQGAN({**flags, "accumulate_grad_batches": 2})
    parts.load_state_dict(joint.state_dict())
    gradients: dict[VQGAN, dict[str, torch.Tensor]] = {}
    for vqgan, batches in ((joint, videos.flatten(0, 1)[None]), (parts, videos)):
        vqgan.codebook.N.fill_(1.0)
        vqgan.codebook._learn = lambda *_: None  # it would move between the two small batches
        step = vqgan._step

        def recording_step(optimizer, *, counts, vqgan=vqgan, step=step):
            if not counts:
                named = vqgan.encoder.named_parameters()
                gradients[vqgan] = {name: p.grad.clone() for name, p in named}
            step(optimizer, counts=counts)

        vqgan._step = recording_step
        fit(vqgan, batches, max_epochs=1)
    # Some gradients are zero but for rounding: they count against the size of the others.
    largest = max(float(gradient.abs().max()) for gradient in gradients[joint].values())
    for name, want in gradients[joint].items():
        got = gradients[parts][name]
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * largest)


def test_a_single_forward_moves_the_batch_statistics_once():
    vqgan = VQGAN({**VQGAN_FLAGS, "single_forward": True, "discriminator_iter_start": 0})
    fit(vqgan, torch.rand(2, 2, 3, 16, 16, 16) - 0.5, max_epochs=1)
    assert vqgan.encoder.final_block[0].num_batches_tracked == 2


def test_lpips_stays_in_eval_mode_and_out_of_checkpoints():
    vqgan = VQGAN({**VQGAN_FLAGS, "perceptual_weight": 1.0}, perceptual_model=LPIPS())
    vqgan.train()
    assert not vqgan.perceptual_model.training
    checkpoint = {"state_dict": vqgan.state_dict()}
    vqgan.on_save_checkpoint(checkpoint)
    assert not any(name.startswith("perceptual_model") for name in checkpoint["state_dict"])
    vqgan.on_load_checkpoint(checkpoint)
    vqgan.load_state_dict(checkpoint["state_dict"])  # strict: complete again
