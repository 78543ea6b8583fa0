"""The transformer stage: what is predicted from what, vocabularies, loading with its VQGANs."""

from __future__ import annotations

import pytest
import torch
from tiny import GPT_FLAGS, save_checkpoint, tiny_transformer, tiny_vqgan

from tats.errors import UserError
from tats.models.transformer import Net2NetTransformer, accuracy, load_transformer


def batch_for(model, size: int = 2) -> dict[str, torch.Tensor]:
    return {
        "video": torch.rand(size, 3, 16, 16, 16) - 0.5,
        "label": torch.arange(size) % 5,
        "text": torch.randint(0, 49408, (size, 8)),
        "stft": torch.rand(size, 1, 16, 64, 16) * 2 - 1,
    }


def sound_vqgan():
    return tiny_vqgan(image_channels=1, n_codes=16, downsample=(8, 16, 8), stft_data=True)


MODELS = {
    "unconditional": lambda: tiny_transformer(unconditional=True),
    "label": lambda: tiny_transformer(class_cond_dim=5),
    "text": lambda: tiny_transformer(cond_stage_key="text", text_seq_len=8, block_size=71),
    "stft": lambda: tiny_transformer(
        cond_stage_key="stft", cond_stage_model=sound_vqgan(), block_size=80
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_loss_is_the_cross_entropy_of_the_video_tokens_alone(kind):
    model = MODELS[kind]()
    batch = batch_for(model)
    codes = model.encode_to_z(batch["video"])[1]
    condition = model.encode_to_c(batch[model.conditioner.batch_key or "video"])[1]
    assert condition.shape == (2, model.conditioner.n_tokens)
    offset = {"unconditional": 0, "label": 5, "text": 49408, "stft": 16}[kind]
    assert model.cond_vocab_size == offset
    tokens = torch.cat([condition, codes + offset], dim=1)
    with torch.no_grad():
        log_p = model.transformer(tokens[:, :-1]).log_softmax(dim=-1)
        loss, _, _ = model.shared_step(batch, 0)
    length = condition.shape[1]
    picked = log_p.gather(2, tokens[:, 1:, None])[:, length - 1 :, 0]
    torch.testing.assert_close(loss, -picked.mean())


def test_text_and_sound_win_over_unconditional():
    model = tiny_transformer(
        cond_stage_key="text", text_seq_len=8, block_size=71, unconditional=True
    )
    assert not model.unconditional
    assert tiny_transformer(unconditional=True).unconditional


def test_every_kth_latent_frame_is_kept_after_encoding():
    model = tiny_transformer(unconditional=True, sample_every_n_latent_frames=2)
    video = torch.rand(1, 3, 16, 16, 16) - 0.5
    every = model.encode_to_z(video)[1].view(2, 4, 4)
    whole = model.first_stage_model.encode(video)[0]
    assert torch.equal(every, whole[::2])
    assert model.latent_shape == (2, 4, 4)


def test_stored_codes_need_no_first_stage():
    model = tiny_transformer(vtokens=True, vtokens_pos=True, resolution=6, spatial_length=4,
                             sequence_length=4, unconditional=True)  # fmt: skip
    assert model.first_stage_model is None
    assert model.latent_shape == (4, 4, 4)
    codes = torch.randint(0, 16384, (2, 4, 4, 4))
    cbox = torch.tensor([[0, 4, 2, 6], [1, 5, 0, 4]])
    with torch.no_grad():
        loss, _, _ = model.shared_step({"video": codes, "cbox": cbox}, 0)
        moved, _, _ = model.shared_step({"video": codes, "cbox": cbox.flip(0)}, 0)
    assert torch.isfinite(loss)
    assert loss != moved  # the place in the frame matters


def test_pkeep_corrupts_inputs_only_while_training():
    model = tiny_transformer(unconditional=True)
    model.pkeep = 0.5
    tokens = torch.zeros(4, 64, dtype=torch.int64)
    assert torch.equal(model._corrupt(tokens), tokens)
    model.train()
    kept = (model._corrupt(tokens) == 0).float().mean()
    assert 0.4 < kept < 0.65


def test_frozen_vqgans_stay_in_eval_mode_and_get_no_gradient():
    model = tiny_transformer(class_cond_dim=5).train()
    assert model.transformer.training
    assert not model.first_stage_model.training
    model.shared_step(batch_for(model), 0)[0].backward()
    assert all(p.grad is None for p in model.first_stage_model.parameters())
    assert all(p.grad is not None for p in model.transformer.parameters())


def test_only_the_weights_of_linear_layers_decay():
    model = tiny_transformer(class_cond_dim=5)
    decayed, rest = model.configure_optimizers().param_groups
    names = {id(p): name for name, p in model.transformer.named_parameters()}
    assert decayed["weight_decay"] == 0.01
    assert rest["weight_decay"] == 0.0
    assert all(names[id(p)].endswith(".weight") and p.ndim == 2 for p in decayed["params"])
    assert {"tok_emb.weight", "pos_emb"} <= {names[id(p)] for p in rest["params"]}
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_accuracy_counts_hits_among_the_likeliest_classes():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    top1, top2 = accuracy(logits, torch.tensor([0, 2, 0, 2]), top_k=(1, 2))
    assert (top1, top2) == (25.0, 50.0)


def test_saving_and_loading_gives_the_same_logits(tmp_path):
    model = tiny_transformer(class_cond_dim=5)
    gpt = save_checkpoint(model, tmp_path / "gpt.ckpt")
    vqgan = save_checkpoint(model.first_stage_model, tmp_path / "vqgan.ckpt")
    loaded = load_transformer(gpt, vqgan)
    tokens = torch.randint(0, 37, (2, 64))
    with torch.no_grad():
        assert torch.equal(loaded.transformer(tokens), model.transformer(tokens))
    assert loaded.latent_shape == (4, 4, 4)
    assert not loaded.training
    assert str(load_transformer(gpt, vqgan, device="cpu").device) == "cpu"


def test_settings_of_older_checkpoints_that_nothing_reads_any_more_are_accepted(tmp_path):
    model = tiny_transformer(class_cond_dim=5)
    model.hparams["ckpt_path"], model.hparams["ignore_keys"] = None, []
    gpt = save_checkpoint(model, tmp_path / "gpt.ckpt")
    vqgan = save_checkpoint(model.first_stage_model, tmp_path / "vqgan.ckpt")
    assert load_transformer(gpt, vqgan).cond_vocab_size == 5


def test_the_learning_rate_given_wins_over_the_flag_and_is_not_stored():
    model = Net2NetTransformer(
        {**GPT_FLAGS, "unconditional": True, "base_lr": 1e-3},
        first_stage_model=tiny_vqgan(),
        learning_rate=5e-4,
    )
    assert model.configure_optimizers().param_groups[0]["lr"] == 5e-4
    assert model.hparams["args"]["base_lr"] == 1e-3


def test_a_vqgan_that_does_not_belong_is_refused(tmp_path):
    gpt = save_checkpoint(tiny_transformer(class_cond_dim=5), tmp_path / "gpt.ckpt")
    other = save_checkpoint(tiny_vqgan(n_codes=16), tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="5 condition \\+ 16 video tokens; expected 37"):
        load_transformer(gpt, other)
    with pytest.raises(UserError, match="holds a transformer model; expected a vqgan"):
        load_transformer(gpt, gpt)
    with pytest.raises(UserError, match="--vqgan_ckpt got nothing"):
        load_transformer(gpt, "")


def test_another_vqgan_of_the_same_size_is_used_with_a_warning(tmp_path, caplog):
    gpt = save_checkpoint(tiny_transformer(class_cond_dim=5), tmp_path / "gpt.ckpt")
    other = save_checkpoint(tiny_vqgan(), tmp_path / "other.ckpt")
    load_transformer(gpt, other)
    assert "holds another first_stage_model than the one given" in caplog.text
