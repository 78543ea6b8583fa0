"""The time-sensitive transformer: a GPT over condition tokens and a frozen VQGAN's codes.

The names of submodules are those of the released checkpoints.
"""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tats.clip_spec import STFT_SIZE, ClipSpec
from tats.errors import UserError
from tats.flags import with_defaults
from tats.models.conditioners import ClassLabel, Conditioner, Sound, Text, Unconditional
from tats.models.gpt import GPT
from tats.models.precision import AdamW
from tats.models.token_loss import hits
from tats.models.vqgan import TRAINING_PREFIXES, VQGAN, load_vqgan
from tats.weights.checkpoint import (
    building_from_settings,
    check_weights,
    load_weights,
    read_checkpoint,
    without,
)

log = logging.getLogger(__name__)

ADAM_BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
COMPARED_VALUES = 2**16
# Parts of a checkpoint the GPT does without: copies of the frozen VQGANs, and the masks of the
# released files.
NOT_THE_GPTS = ("first_stage_model.", "cond_stage_model.", "transformer.blocks.*.attn.mask")


class Net2NetTransformer(pl.LightningModule):
    """Models the VQGAN codes of a video given its condition.

    Args:
        args: flags of ``train_transformer.py`` (a Namespace or a dict); missing ones take their
            defaults.
        first_stage_key: batch entry that holds the video.
        cond_stage_key: "label", "text" or "stft"; with "label", ``args.unconditional`` means no
            condition.
        pkeep: while training, each input video token is kept with this probability and is
            otherwise a uniform draw from the vocabulary.
        sos_token: the unconditional model's start token.
        first_stage_model: the frozen VQGAN; None loads the file named by ``args.vqvae``.
        cond_stage_model: the frozen STFT-VQGAN; None loads ``args.stft_vqvae``.
        clip: what it trains on, as it is or as stored; None = what the flags say.
        learning_rate: None = ``args.base_lr``, which training scales to the run.

    Raises:
        UserError: the flags contradict each other, or a file does not load.

    Source: Ge et al. §3.2.
    """

    def __init__(
        self,
        args: Namespace | Mapping[str, Any],
        first_stage_key: str = "video",
        cond_stage_key: str = "label",
        pkeep: float = 1.0,
        sos_token: int = 0,
        *,
        first_stage_model: VQGAN | None = None,
        cond_stage_model: VQGAN | None = None,
        clip: ClipSpec | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        args = with_defaults(args)
        self.args = args
        self.clip = ClipSpec.given(clip, args)
        self.first_stage_key = first_stage_key
        self.pkeep = pkeep
        self.save_hyperparameters(
            {
                "args": vars(args),
                "first_stage_key": first_stage_key,
                "cond_stage_key": cond_stage_key,
                "pkeep": pkeep,
                "sos_token": sos_token,
                "clip": self.clip.to_dict(),
            }
        )
        if first_stage_model is None and not args.vtokens:
            first_stage_model = load_vqgan(args.vqvae, flag="--vqvae")
        if cond_stage_model is None and cond_stage_key == "stft":
            cond_stage_model = load_vqgan(args.stft_vqvae, flag="--stft_vqvae")
        self.first_stage_model = _frozen(first_stage_model)
        self.cond_stage_model = _frozen(cond_stage_model)
        self.conditioner = _make_conditioner(args, cond_stage_key, sos_token, cond_stage_model)

        grid = (args.sequence_length, args.resolution, args.resolution)
        self.transformer = GPT(
            vocab_size=self.cond_vocab_size + self.first_stage_vocab_size,
            block_size=args.block_size,
            n_layer=args.n_layer,
            n_head=args.n_head,
            n_embd=args.n_embd,
            n_unmasked=args.n_unmasked,
            vtokens_grid=grid if args.vtokens_pos else None,
        )
        self.learning_rate: float = args.base_lr if learning_rate is None else learning_rate

    # ---- vocabulary and shapes -------------------------------------------------------------

    @property
    def cond_vocab_size(self) -> int:
        """Tokens of the condition; video tokens are codes plus this."""
        return self.conditioner.vocab_size

    @property
    def first_stage_vocab_size(self) -> int:
        """Codes of the first stage."""
        if self.first_stage_model is None:
            return self.args.first_stage_vocab_size
        return self.first_stage_model.n_codes

    @property
    def unconditional(self) -> bool:
        """Whether the model takes no condition."""
        return isinstance(self.conditioner, Unconditional)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of what the model was trained to write in one go."""
        return self._latent_shape(self.clip)

    def _latent_shape(self, clip: ClipSpec) -> tuple[int, int, int]:
        vqgan = self.first_stage_model
        n_frames, rows, columns = clip.latent_shape(
            (1, 1, 1) if vqgan is None else vqgan.downsample
        )
        return -(-n_frames // (self.args.sample_every_n_latent_frames or 1)), rows, columns

    def find_clip(self, *, source: str) -> None:
        """Find out what the clips are, where a file does not say so.

        Args:
            source: the file, for messages.

        Raises:
            UserError: they have not even one latent frame.
        """

        def holds(clip: ClipSpec) -> int:
            n_tokens = math.prod(self._latent_shape(clip))
            n_read = self.conditioner.n_tokens + n_tokens - 1  # the last token is never read
            return n_tokens if n_read <= self.args.block_size else 0

        if self.first_stage_model is None:
            return
        by_flags = self.clip
        vqgan = self.first_stage_model.clip
        self.clip = ClipSpec.of_transformer(self.args, vqgan=vqgan, holds=holds)
        self.hparams["clip"] = self.clip.to_dict()
        if 0 in self.latent_shape:
            raise UserError(
                f"{source}: its settings say clips of {self.clip.shape} frames, height and width; "
                f"expected at least {tuple(self.first_stage_model.downsample)}, one latent frame"
            )
        if self.clip != by_flags:
            log.warning(
                "%s: its settings say clips of %s frames, height and width; sampling %s, which "
                "its VQGAN was trained on and its block_size fits",
                source, by_flags.shape, self.clip.shape,
            )  # fmt: skip

    # ---- tokens ----------------------------------------------------------------------------

    @torch.no_grad()
    def video_codes(self, video: Float[Tensor, "B C T H W"]) -> Int[Tensor, "B t h w"]:
        """Turn video into the codes the GPT models.

        Args:
            video: in [-0.5, 0.5]; with ``--vtokens`` already codes, (B, t, h, w).

        Returns:
            int64, not offset.
        """
        if self.args.vtokens or self.first_stage_model is None:
            codes = video.long()
        else:
            codes = self.first_stage_model.encode(video)
        return codes[:, :: self.args.sample_every_n_latent_frames or 1]

    @torch.no_grad()
    def encode_to_z(
        self, video: Float[Tensor, "B C T H W"]
    ) -> tuple[Float[Tensor, "B t h w D"] | None, Int[Tensor, "B N"]]:
        """Turn video into codes with their embeddings; ``video_codes`` finds the codes alone.

        Returns:
            Embeddings, None with ``--vtokens``; codes in raster order, int64, not offset.
        """
        codes = self.video_codes(video)
        if self.args.vtokens or self.first_stage_model is None:
            return None, codes.flatten(1)
        embeddings = self.first_stage_model.codebook.lookup(codes)
        return embeddings.movedim(1, -1), codes.flatten(1)

    @torch.no_grad()
    def encode_to_c(
        self, condition: Shaped[Tensor, "B ..."]
    ) -> tuple[Shaped[Tensor, "B ..."], Int[Tensor, "B L"]]:
        """Turn a batch's condition into tokens.

        Returns:
            The condition as given; its tokens, int64.
        """
        return condition, self.conditioner.encode(condition)

    def forward(
        self,
        video: Float[Tensor, "B C T H W"],
        condition: Shaped[Tensor, "B ..."],
        cbox: Int[Tensor, "B 4"] | None = None,
        tbox: Int[Tensor, "B 2"] | None = None,
    ) -> tuple[Float[Tensor, "B N V"], Int[Tensor, "B N"]]:
        """Predict every video token from the condition and the tokens before it.

        Args:
            video: as for ``encode_to_z``.
            condition: as for ``encode_to_c``.
            cbox: crop box of a ``--vtokens_pos`` model.
            tbox: time box of a ``--vtokens_pos`` model.

        Returns:
            Logits and the tokens they should predict.
        """
        tokens, n_skipped, target = self._tokens(video, condition)
        logits = self.transformer(tokens, cbox=cbox, tbox=tbox, n_skipped=n_skipped)
        return logits, target

    def _tokens(
        self, video: Tensor, condition: Tensor
    ) -> tuple[Int[Tensor, "B S"], int, Int[Tensor, "B N"]]:
        """Input tokens, how many of them predict no video token, and those to predict."""
        target = self.video_codes(video).flatten(1) + self.cond_vocab_size
        cond_tokens = self.conditioner.encode(condition)
        tokens = torch.cat([cond_tokens, self._corrupt(target)], dim=1)
        # A text's logits would cost as much as the video's.
        return tokens[:, :-1], cond_tokens.shape[1] - 1, target

    def _corrupt(self, tokens: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """Replace input tokens by random ones, as ``pkeep`` asks while training."""
        if not self.training or self.pkeep >= 1:
            return tokens
        drawn = torch.rand(tokens.shape, device=tokens.device, dtype=torch.float32)
        keep = drawn < self.pkeep
        return torch.where(keep, tokens, torch.randint_like(tokens, self.transformer.vocab_size))

    # ---- training --------------------------------------------------------------------------

    def shared_step(
        self, batch: dict[str, Tensor], batch_index: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Score one batch.

        Returns:
            Cross-entropy per video token in nats, top-1 and top-5 accuracy in percent.
        """
        video = batch[self.first_stage_key]
        condition = batch[self.conditioner.batch_key or self.first_stage_key]
        tokens, n_skipped, target = self._tokens(video, condition)
        cbox, tbox = batch.get("cbox"), batch.get("tbox")
        if not self.args.vtokens_pos:
            cbox = tbox = None
        loss, acc1, acc5 = self.transformer(
            tokens, cbox=cbox, tbox=tbox, n_skipped=n_skipped, target=target
        )
        return loss, acc1, acc5

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Float[Tensor, ""]:
        """Loss of one training batch."""
        return self._logged_step("train", batch, batch_index)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> Float[Tensor, ""]:
        """Loss of one held-out batch."""
        return self._logged_step("val", batch, batch_index)

    def _logged_step(self, split: str, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        loss, acc1, acc5 = self.shared_step(batch, batch_index)
        size, held_out = len(batch[self.first_stage_key]), split == "val"
        self.log(f"{split}/loss", loss, prog_bar=True, batch_size=size, sync_dist=held_out)
        figures = {f"{split}/acc1": acc1, f"{split}/acc5": acc5}
        self.log_dict(figures, batch_size=size, sync_dist=held_out)
        return loss

    def train(self, mode: bool = True) -> Net2NetTransformer:
        """Switch the GPT's mode; the frozen VQGANs stay in eval mode."""
        super().train(mode)
        for frozen in (self.first_stage_model, self.cond_stage_model):
            if frozen is not None:
                frozen.eval()
        return self

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW that decays the weights of linear layers only."""
        decayed = {
            f"{name}.weight"
            for name, module in self.transformer.named_modules()
            if isinstance(module, nn.Linear)
        }
        # Sorted, as the released optimiser states are.
        parameters = sorted(self.transformer.named_parameters())
        groups = [
            {
                "params": [p for name, p in parameters if name in decayed],
                "weight_decay": WEIGHT_DECAY,
            },
            {"params": [p for name, p in parameters if name not in decayed], "weight_decay": 0.0},
        ]
        return AdamW(groups, lr=self.learning_rate, betas=ADAM_BETAS)

    # ---- checkpoints -----------------------------------------------------------------------

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a file to resume from; the frozen VQGANs stay this model's own.

        Raises:
            UserError: its weights do not fit the flags.
        """
        own, source = self.state_dict(), "--resume_from_checkpoint"
        given = _gpt_weights(checkpoint["state_dict"], source=source)
        state = {f"transformer.{name}": tensor for name, tensor in given.items()}
        state |= {k: v for k, v in own.items() if not k.startswith("transformer.")}
        checkpoint["state_dict"] = check_weights(state, own, source=source, model="transformer")


def accuracy(
    logits: Float[Tensor, "n V"], target: Int[Tensor, " n"], *, top_k: Sequence[int]
) -> list[Float[Tensor, ""]]:
    """Share of targets among the k likeliest classes, in percent, for each of ``top_k``."""
    return [count / len(target) * 100 for count in hits(logits.float(), target, top_k=top_k)]


def _frozen(vqgan: VQGAN | None) -> VQGAN | None:
    return None if vqgan is None else vqgan.freeze()


def _make_conditioner(
    args: Namespace, cond_stage_key: str, sos_token: int, stft_vqgan: VQGAN | None
) -> Conditioner:
    """Choose the conditioner; "text" and "stft" win over ``--unconditional``."""
    if cond_stage_key == "stft":
        assert stft_vqgan is not None
        _take_as_sound(stft_vqgan)
        return Sound(stft_vqgan)
    if cond_stage_key == "text":
        return Text(args.text_seq_len)
    if cond_stage_key != "label":
        raise UserError(
            f"--cond_stage_key got {cond_stage_key!r}; expected one of label, text, stft"
        )
    if args.unconditional:
        return Unconditional(sos_token)
    if not args.class_cond_dim:
        raise UserError(
            "the number of classes (class_cond_dim) is not known; expected a data set with class "
            "folders, or pass --unconditional"
        )
    return ClassLabel(args.class_cond_dim)


def _take_as_sound(vqgan: VQGAN) -> None:
    """Check an STFT-VQGAN; a released one's flags need not say that its clips are spectrograms."""
    if vqgan.clip.channels != 1:
        raise UserError(
            f"--stft_vqvae (when sampling: --stft_vqgan_ckpt) got a VQGAN of "
            f"{vqgan.clip.channels} channels; expected an STFT-VQGAN, trained with "
            "--stft_data, which has 1"
        )
    height, width = STFT_SIZE
    vqgan.clip = replace(vqgan.clip, height=height, width=width, kind="spectrogram")


def _gpt_weights(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """The GPT's own weights in a transformer checkpoint."""
    kept = without(state, NOT_THE_GPTS, source=source)
    return {name.removeprefix("transformer."): tensor for name, tensor in kept.items()}


def load_transformer(
    gpt_ckpt: str | Path,
    vqgan_ckpt: str | Path,
    stft_vqgan_ckpt: str | Path = "",
    device: str | torch.device = "cpu",
) -> Net2NetTransformer:
    """Load a trained transformer with its VQGAN(s) for use, in eval mode.

    Args:
        gpt_ckpt: a checkpoint of ``train_transformer.py`` or a released transformer file.
        vqgan_ckpt: the VQGAN it was trained on; "" for a model trained on stored codes.
        stft_vqgan_ckpt: the STFT-VQGAN of a sound-conditioned model, else "".
        device: where to put them.

    Raises:
        UserError: a file is missing, unreadable, hostile, of the wrong stage, or they do not
            belong together.
    """
    checkpoint = read_checkpoint(gpt_ckpt, flag="--gpt_ckpt", stage="transformer")
    keys = ("first_stage_key", "cond_stage_key", "pkeep", "sos_token", "clip")
    stored = checkpoint.hyper_parameters
    settings = {key: stored[key] for key in keys if key in stored}
    args = with_defaults(checkpoint.args)
    weights = _gpt_weights(checkpoint.state_dict, source=f"--gpt_ckpt {gpt_ckpt}")
    _check_n_layer(args, weights, gpt_ckpt)
    sound = settings.get("cond_stage_key") == "stft"
    if not vqgan_ckpt and not args.vtokens:
        raise UserError(
            f"--vqgan_ckpt got nothing; expected the VQGAN that {gpt_ckpt} was trained on"
        )
    if sound and not stft_vqgan_ckpt:
        raise UserError(
            f"--stft_vqgan_ckpt got nothing; expected the STFT-VQGAN that {gpt_ckpt} was trained on"
        )
    first_stage = load_vqgan(vqgan_ckpt, flag="--vqgan_ckpt") if vqgan_ckpt else None
    stft_vqgan = load_vqgan(stft_vqgan_ckpt, flag="--stft_vqgan_ckpt") if sound else None
    with building_from_settings(checkpoint.path, "--gpt_ckpt"):
        model = Net2NetTransformer(
            args, first_stage_model=first_stage, cond_stage_model=stft_vqgan, **settings
        )
    if "clip" not in settings:
        model.find_clip(source=f"--gpt_ckpt {gpt_ckpt}")
    n_tokens = len(weights["tok_emb.weight"])
    if n_tokens != model.transformer.vocab_size:
        raise UserError(
            f"--vqgan_ckpt {vqgan_ckpt or stft_vqgan_ckpt} does not belong to {gpt_ckpt}: got "
            f"{model.cond_vocab_size} condition + {model.first_stage_vocab_size} video tokens; "
            f"expected {n_tokens} together"
        )
    load_weights(model.transformer, weights, source=f"--gpt_ckpt {gpt_ckpt}")
    for name in ("first_stage_model", "cond_stage_model"):
        _warn_if_other(getattr(model, name), checkpoint.part(f"{name}."), name, gpt_ckpt)
    return model.eval().to(device)  # also from "meta", where Lightning remembers it was built


def _check_n_layer(args: Namespace, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Layers are built one by one: believe their number only when the weights bear it out."""
    n_layer = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if args.n_layer != n_layer:
        raise UserError(
            f"--gpt_ckpt {path}: settings say n_layer {args.n_layer}; the weights have {n_layer}"
        )


def _warn_if_other(
    vqgan: VQGAN | None, stored: Mapping[str, Tensor], name: str, gpt_ckpt: str | Path
) -> None:
    """Say so when the VQGAN given differs from the copy stored with the transformer."""
    if vqgan is None:
        return
    own = vqgan.state_dict()
    # Training moves every bias and count, so the small tensors tell; the large stay unread.
    same = {
        key: tensor
        for key, tensor in stored.items()
        if not key.startswith(TRAINING_PREFIXES)
        and isinstance(tensor, Tensor)
        and tensor.numel() <= COMPARED_VALUES
    }
    if any(k not in own or not torch.equal(own[k], v.to(own[k].dtype)) for k, v in same.items()):
        log.warning("%s holds another %s than the one given; using the one given", gpt_ckpt, name)
