"""The time-agnostic 3D VQGAN: autoencoder, codebook, discriminators and how they are trained.

The names of submodules are those of the released checkpoints.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from tats.clip_spec import ClipSpec
from tats.errors import UserError
from tats.flags import with_defaults
from tats.models.autoencoder import Decoder, Encoder, SamePadConv3d
from tats.models.codebook import Codebook, Quantized
from tats.models.discriminator import (
    Judgement,
    PatchDiscriminator,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from tats.models.lpips import LPIPS
from tats.models.precision import Adam, keeping_format, without_autocast
from tats.weights.checkpoint import (
    building_from_settings,
    check_weights,
    load_weights,
    read_checkpoint,
)

log = logging.getLogger(__name__)

# Parts of a checkpoint that only training needs.
TRAINING_PREFIXES = ("image_discriminator.", "video_discriminator.", "perceptual_model.")
IN_PROGRESS_BAR = ("recon_loss", "perceptual_loss", "commitment_loss", "aeloss", "discloss")
ADAM_BETAS = (0.5, 0.9)


class Reconstruction(NamedTuple):
    """One pass through the autoencoder."""

    video: Float[Tensor, "B C T H W"]
    quantized: Quantized


class Losses(NamedTuple):
    """The loss to minimise and the figures to log, by name."""

    total: Float[Tensor, ""]
    logged: dict[str, Float[Tensor, ""]]


class VQGAN(pl.LightningModule):
    """Video ↔ grid of codebook indices, trained with reconstruction, perceptual and GAN losses.

    Args:
        args: flags of ``train_vqgan.py`` (a Namespace or a dict); missing ones take their
            defaults.
        clip: what it trains on, as it is or as stored; None = what the flags say.
        for_training: also build the discriminators.
        perceptual_model: ``load_lpips()``, for training with ``args.perceptual_weight`` above 0.
        learning_rate: of both optimisers; None = ``args.lr``, which training scales to the run.

    Source: Ge et al. §3.1.
    """

    perceptual_model: LPIPS | None

    def __init__(
        self,
        args: Namespace | Mapping[str, Any],
        *,
        clip: ClipSpec | Mapping[str, Any] | None = None,
        for_training: bool = True,
        perceptual_model: LPIPS | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        args = with_defaults(args)
        self.args = args
        self.clip = ClipSpec.given(clip, args)
        self.save_hyperparameters({"args": vars(args), "clip": self.clip.to_dict()})
        self.automatic_optimization = False  # two optimisers that see different forwards
        self.downsample: tuple[int, int, int] = tuple(args.downsample)
        self.n_codes: int = args.n_codes

        shared = {"image_channels": args.image_channels, "norm_type": args.norm_type}
        self.encoder = Encoder(
            n_hiddens=args.n_hiddens,
            downsample=self.downsample,
            padding_type=args.padding_type,
            **shared,
        )
        self.decoder = Decoder(n_hiddens=args.n_hiddens, upsample=self.downsample, **shared)
        width = self.encoder.out_channels
        self.pre_vq_conv = SamePadConv3d(width, args.embedding_dim, kernel=1)
        self.post_vq_conv = SamePadConv3d(args.embedding_dim, width, kernel=1)
        self.codebook = Codebook(
            n_codes=args.n_codes,
            embedding_dim=args.embedding_dim,
            random_restart=not args.no_random_restart,
            restart_threshold=args.restart_thres,
        )
        self._frozen = False
        self.learning_rate: float = args.lr if learning_rate is None else learning_rate
        self.perceptual_model = perceptual_model
        if for_training:
            patch = {
                "in_channels": args.image_channels,
                "channels": args.disc_channels,
                "n_layers": args.disc_layers,
            }
            self.image_discriminator = PatchDiscriminator(dims=2, **patch)
            self.video_discriminator = PatchDiscriminator(dims=3, **patch)

    # ---- using a trained model -------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of one training clip."""
        return self.clip.latent_shape(self.downsample)

    def freeze(self) -> VQGAN:
        """Be done with training: eval mode, no gradients, and float32 for good.

        Codes are data, and those of another number format would be other data. So a cast to one
        passes a frozen VQGAN by; a decoder meant to be fast is cast by itself.
        """
        super().freeze()
        self._frozen = True
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VQGAN:
        return super()._apply(keeping_format(fn) if self._frozen else fn, recurse)

    @overload
    def encode(
        self, video: Float[Tensor, "B C T H W"], include_embeddings: Literal[False] = False
    ) -> Int[Tensor, "B t h w"]: ...
    @overload
    def encode(
        self, video: Float[Tensor, "B C T H W"], include_embeddings: Literal[True]
    ) -> tuple[Float[Tensor, "B D t h w"], Int[Tensor, "B t h w"]]: ...
    def encode(
        self, video: Float[Tensor, "B C T H W"], include_embeddings: bool = False
    ) -> Int[Tensor, "B t h w"] | tuple[Float[Tensor, "B D t h w"], Int[Tensor, "B t h w"]]:
        """Turn video into codebook indices; learns nothing, in any mode.

        A caller's autocast has no effect: codes are found in the format of the weights.

        Args:
            video: in [-0.5, 0.5]; each axis a multiple of its downsampling.
            include_embeddings: also return the codes' embeddings.

        Returns:
            Codes, int64; with ``include_embeddings`` the embeddings and the codes.

        Raises:
            ValueError: the video does not fit the model.
        """
        self._check_video(video)
        with without_autocast(video):
            codes = self.codebook.encode(self._features(video))
            return (self.codebook.lookup(codes), codes) if include_embeddings else codes

    def decode(self, codes: Int[Tensor, "B t h w"]) -> Float[Tensor, "B C T H W"]:
        """Turn codebook indices into video.

        Args:
            codes: each in [0, n_codes).

        Returns:
            Video, nominally in [-0.5, 0.5], not clamped.

        Raises:
            ValueError: a code is out of range.

        Source: Ge et al. §3.1.
        """
        low, high = (int(bound) for bound in codes.aminmax())
        if low < 0 or high >= self.n_codes:
            raise ValueError(f"codes got values {low}..{high}; expected 0..{self.n_codes - 1}")
        return self._decode_embeddings(self.codebook.lookup(codes))

    def reconstruct(self, video: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        """Encode and decode video; learns nothing."""
        return self.decode(self.encode(video))

    def _check_video(self, video: Float[Tensor, "B C T H W"]) -> None:
        channels, *sizes = video.shape[1:]
        if channels != self.args.image_channels or any(
            size % factor for size, factor in zip(sizes, self.downsample, strict=True)
        ):
            raise ValueError(
                f"video got shape {tuple(video.shape)}; expected {self.args.image_channels} "
                f"channels and time, height, width divisible by {self.downsample}"
            )

    def _features(self, video: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D t h w"]:
        video = video.to(self.pre_vq_conv.conv.weight.dtype)
        return self.pre_vq_conv(self.encoder(video))

    def _decode_embeddings(
        self, embeddings: Float[Tensor, "B D t h w"]
    ) -> Float[Tensor, "B C T H W"]:
        embeddings = embeddings.to(self.post_vq_conv.conv.weight.dtype)
        return self.decoder(self.post_vq_conv(embeddings))

    # ---- losses ----------------------------------------------------------------------------

    def forward(self, video: Float[Tensor, "B C T H W"]) -> Reconstruction:
        """Quantize and reconstruct; in training mode the codebook learns."""
        quantized = self.codebook(self._features(video))
        return Reconstruction(self._decode_embeddings(quantized.embeddings), quantized)

    def generator_losses(
        self,
        video: Float[Tensor, "B C T H W"],
        result: Reconstruction,
        frame_index: Int[Tensor, " B"],
        *,
        step: int,
    ) -> Losses:
        """The autoencoder's losses.

        Args:
            video: in [-0.5, 0.5].
            result: what ``forward`` made of it.
            frame_index: the frame each clip shows the 2D losses.
            step: training steps done; the GAN losses count from ``discriminator_iter_start``.

        Returns:
            Sum of the reconstruction, perceptual, commitment, GAN and feature-matching losses.
        """
        args, gan_factor = self.args, self._gan_factor(step)
        fake, quantized = result
        real_frame, fake_frame = _pick_frames(video, frame_index), _pick_frames(fake, frame_index)
        recon = F.l1_loss(fake.float(), video.float()) * args.l1_weight
        perceptual = self._perceptual_loss(fake_frame, real_frame)

        # Before the GAN starts its losses are logged, and move the batch statistics, but the
        # autoencoder needs no gradient of them. (The discriminators take theirs, times 0.)
        with torch.set_grad_enabled(gan_factor > 0 and torch.is_grad_enabled()):
            on_frame = self.image_discriminator(fake_frame)
            on_video = self.video_discriminator(fake)
            g_image, g_video = generator_loss(on_frame), generator_loss(on_video)
            image_features = self._feature_loss(
                self.image_discriminator, args.image_gan_weight, on_frame, real_frame.to(fake)
            )
            video_features = self._feature_loss(
                self.video_discriminator, args.video_gan_weight, on_video, video.to(fake)
            )
        adversarial = args.image_gan_weight * g_image + args.video_gan_weight * g_video
        adversarial = gan_factor * adversarial
        features = gan_factor * args.gan_feat_weight * (image_features + video_features)
        return Losses(
            total=recon + perceptual + quantized.commitment_loss + adversarial + features,
            logged={
                "recon_loss": recon,
                "perceptual_loss": perceptual,
                "commitment_loss": quantized.commitment_loss,
                "perplexity": quantized.perplexity,
                "aeloss": adversarial,
                "g_image_loss": g_image,
                "g_video_loss": g_video,
                "image_gan_feat_loss": image_features,
                "video_gan_feat_loss": video_features,
            },
        )

    def discriminator_losses(
        self,
        video: Float[Tensor, "B C T H W"],
        fake: Float[Tensor, "B C T H W"],
        frame_index: Int[Tensor, " B"],
        *,
        step: int,
    ) -> Losses:
        """The discriminators' losses, on detached reconstructions ``fake`` of ``video``."""
        args, gan_factor = self.args, self._gan_factor(step)
        fake = fake.detach()
        video = video.to(fake)  # in the number format the discriminators have
        real_frame, fake_frame = _pick_frames(video, frame_index), _pick_frames(fake, frame_index)
        on_real_frame = self.image_discriminator(real_frame)
        on_real_video = self.video_discriminator(video)
        on_fake_frame = self.image_discriminator(fake_frame)
        on_fake_video = self.video_discriminator(fake)
        d_image = discriminator_loss(args.disc_loss_type, on_real_frame, on_fake_frame)
        d_video = discriminator_loss(args.disc_loss_type, on_real_video, on_fake_video)
        total = gan_factor * (args.image_gan_weight * d_image + args.video_gan_weight * d_video)
        return Losses(
            total=total,
            logged={
                "discloss": total,
                "d_image_loss": d_image,
                "d_video_loss": d_video,
                "logits_image_real": on_real_frame.logits.mean(),
                "logits_image_fake": on_fake_frame.logits.mean(),
                "logits_video_real": on_real_video.logits.mean(),
                "logits_video_fake": on_fake_video.logits.mean(),
            },
        )

    def _gan_factor(self, step: int) -> float:
        return 0.0 if step < self.args.discriminator_iter_start else 1.0

    def _perceptual_loss(
        self, fake_frame: Float[Tensor, "B C H W"], real_frame: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        if self.args.perceptual_weight == 0:
            return fake_frame.new_zeros((), dtype=torch.float32)
        if self.perceptual_model is None:
            raise UserError(
                f"perceptual_weight got {self.args.perceptual_weight} and no perceptual model; "
                "expected VQGAN(args, perceptual_model=load_lpips())"
            )
        distance = self.perceptual_model(real_frame, fake_frame)
        return distance.mean() * self.args.perceptual_weight

    def _feature_loss(
        self, discriminator: PatchDiscriminator, weight: float, on_fake: Judgement, real: Tensor
    ) -> Float[Tensor, ""]:
        if weight == 0:
            return on_fake.logits.new_zeros((), dtype=torch.float32)
        with torch.no_grad():
            on_real = discriminator(real)
        return feature_matching_loss(on_fake, on_real)

    # ---- training --------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """One micro-batch: the autoencoder's update, then the discriminators'.

        The discriminators see a fresh forward through the just-updated autoencoder, so codebook
        and batch statistics move twice a batch, as published. ``--single_forward`` judges the
        autoencoder's own forward instead.
        """
        video = self._clips(batch)
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        autoencoder_optimizer, discriminator_optimizer = optimizers
        step, step_now = self.global_step, self._closes_window(batch_index)

        self.toggle_optimizer(autoencoder_optimizer)
        result = self(video)
        losses = self.generator_losses(video, result, _random_frames(video), step=step)
        self._backward(losses.total)
        self._log_losses("train", losses.logged, video)
        if step_now:
            self._step(autoencoder_optimizer, counts=False)
        self.untoggle_optimizer(autoencoder_optimizer)

        self.toggle_optimizer(discriminator_optimizer)
        if not self.args.single_forward:
            with torch.no_grad():
                result = self(video)
        losses = self.discriminator_losses(video, result.video, _random_frames(video), step=step)
        self._backward(losses.total)
        self._log_losses("train", losses.logged, video)
        if step_now:
            self._step(discriminator_optimizer, counts=True)
        self.untoggle_optimizer(discriminator_optimizer)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Log the reconstruction figures of one held-out batch."""
        video = self._clips(batch)
        result = self(video)
        frame_index = _random_frames(video)
        real_frame = _pick_frames(video, frame_index)
        perceptual = self._perceptual_loss(_pick_frames(result.video, frame_index), real_frame)
        figures = {
            "recon_loss": F.l1_loss(result.video.float(), video.float()) * self.args.l1_weight,
            "perceptual_loss": perceptual,
            "perplexity": result.quantized.perplexity,
            "commitment_loss": result.quantized.commitment_loss,
        }
        self._log_losses("val", figures, video)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the autoencoder and Adam for the discriminators, in this order."""
        autoencoder = (self.encoder, self.decoder, self.pre_vq_conv, self.post_vq_conv)
        discriminators = (self.image_discriminator, self.video_discriminator)
        return [
            Adam(
                [p for module in modules for p in module.parameters()],
                lr=self.learning_rate,
                betas=ADAM_BETAS,
            )
            for modules in (autoencoder, discriminators)
        ]

    def _clips(self, batch: dict[str, Tensor]) -> Float[Tensor, "B C T H W"]:
        return batch["stft" if self.clip.kind == "spectrogram" else "video"]

    def _log_losses(self, split: str, figures: dict[str, Tensor], video: Tensor) -> None:
        for name, value in figures.items():
            self.log(
                f"{split}/{name}",
                value.detach(),
                prog_bar=split == "train" and name in IN_PROGRESS_BAR,
                batch_size=len(video),
                sync_dist=split == "val",
            )

    def _closes_window(self, batch_index: int) -> bool:
        """Whether gradients have been accumulated for long enough; an epoch's end closes too."""
        n = self.args.accumulate_grad_batches or 1
        return (batch_index + 1) % n == 0 or self.trainer.is_last_batch

    def _backward(self, loss: Float[Tensor, ""]) -> None:
        """Accumulate gradients; also in an epoch's shorter last window divided by the full
        window (D21)."""
        self.manual_backward(loss / (self.args.accumulate_grad_batches or 1))

    def _step(self, optimizer: Any, *, counts: bool) -> None:
        """Clip and apply an optimiser's gradients.

        Lightning counts every step of a wrapped optimiser as a global step, and lets the scaler
        of float16 choose its next scale then. One training step is both updates, so only the last
        of them is wrapped: all its gradients, also those accumulated, have one scale.
        """
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # fp16 only
        if counts:
            optimizer.step()  # unscales, comes by on_before_optimizer_step, and updates the scale
        elif scaler is not None:
            scaler.unscale_(optimizer.optimizer)
            self.on_before_optimizer_step(optimizer.optimizer)
            scaler.step(optimizer.optimizer)  # not where a gradient overflowed
        else:
            self.on_before_optimizer_step(optimizer.optimizer)
            optimizer.optimizer.step()
        optimizer.zero_grad()

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients: validation may come between the batches of a window, which only
        this model knows."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients, which have no scale any more, as the Trainer's flags say."""
        limit = self.args.gradient_clip_val
        if not limit:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if self.trainer.gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, limit)

    # ---- checkpoints -----------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the perceptual model: frozen, and its weights have a file of their own."""
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("perceptual_model.")]:
            del state[name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check a file to resume from; what it may lack, this model's own values replace.

        Raises:
            UserError: its weights do not fit the flags.
        """
        state, own = checkpoint["state_dict"], self.state_dict()
        lacks_discriminators = not any("_discriminator." in name for name in state)
        if lacks_discriminators:
            log.warning("the checkpoint has no discriminators; starting with fresh ones")
            checkpoint["optimizer_states"] = checkpoint.get("optimizer_states", [])[:1]
        mine = TRAINING_PREFIXES if lacks_discriminators else ("perceptual_model.",)
        given = {name: tensor for name, tensor in state.items() if not name.startswith(mine)}
        given |= {name: tensor for name, tensor in own.items() if name.startswith(mine)}
        source = "--resume_from_checkpoint"
        checkpoint["state_dict"] = check_weights(given, own, source=source, model="VQGAN")


def _random_frames(video: Float[Tensor, "B C T H W"]) -> Int[Tensor, " B"]:
    """One random frame index per clip."""
    return torch.randint(0, video.shape[2], (len(video),), device=video.device)


def _pick_frames(
    video: Float[Tensor, "B C T H W"], frame_index: Int[Tensor, " B"]
) -> Float[Tensor, "B C H W"]:
    """Frame ``frame_index[b]`` of clip b."""
    clips = torch.arange(len(video), device=video.device)
    return rearrange(video, "b c t h w -> b t c h w")[clips, frame_index]


def load_vqgan(
    path: str | Path, device: str | torch.device = "cpu", *, flag: str = "vqgan checkpoint"
) -> VQGAN:
    """Load a trained VQGAN for use: frozen, no discriminators, no perceptual model.

    Args:
        path: a checkpoint of ``train_vqgan.py``, a released VQGAN file, or a released one's name.
        device: where to put it.
        flag: the flag the path came from, for messages.

    Raises:
        UserError: the file is missing, unreadable, hostile or not a VQGAN.
    """
    checkpoint = read_checkpoint(path, flag=flag, stage="vqgan")
    with building_from_settings(checkpoint.path, flag):
        stored = checkpoint.hyper_parameters.get("clip")
        vqgan = VQGAN(checkpoint.args, clip=stored, for_training=False)
    load_weights(vqgan, checkpoint.state_dict, source=f"{flag} {path}", dropped=TRAINING_PREFIXES)
    if not bool(vqgan.codebook.N.sum() > 0):
        raise UserError(f"{flag}: {path} was never trained; expected a trained VQGAN")
    return vqgan.freeze().to(device)  # also from "meta", where Lightning remembers it was built
