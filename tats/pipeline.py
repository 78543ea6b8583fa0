"""The front door: a first stage and its transformers, from a name to videos.

tats = TATS.from_pretrained("ucf101-base")
clips = tats.sample(n=4, frames=64, label=[3, 3, 7, 7], seed=0)
for frames in tats.stream(frames=4096, seed=0): ...
"""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from tats.data.sound import FRAME_RATE
from tats.devices import choose_device
from tats.errors import UserError
from tats.flag_checks import INTERPOLATION_STRIDE
from tats.flags import Interpolation, SamplingPrecision, WeightFormat
from tats.models.transformer import NOT_THE_GPTS, Net2NetTransformer, load_transformer
from tats.models.vqgan import TRAINING_PREFIXES, VQGAN
from tats.paths import atomic_path, file_sha256
from tats.sampling import samplers, sound_to_video, text_to_video
from tats.sampling.draw import TokenFilter
from tats.sampling.engines import quantize_
from tats.sampling.passes import Beginning, Given, VideoSampler, classes
from tats.sampling.pixels import FrameDecoder
from tats.sampling.prime import prime_codes
from tats.sampling.runs import fitting_batch_size
from tats.sampling.samplers import ARGUMENTS, Wishes, Words
from tats.sampling.sound_to_video import SoundSource
from tats.video_io import to_float
from tats.weights.catalogue import RELEASED, released_name, resolve_checkpoint
from tats.weights.checkpoint import without, write_slim

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
NOT_NEEDED = {VQGAN: TRAINING_PREFIXES, Net2NetTransformer: NOT_THE_GPTS}
MODEL_FILE = "tats.json"  # of a saved folder: names its parts
PARTS = ("gpt", "vqgan", "stft_vqgan", "interpolation")
Files = Mapping[str, str | Path]


class TATS:
    """Everything that makes videos: transformer, VQGAN, and what else they need.

    Args:
        model: a transformer with its VQGAN, and its STFT-VQGAN where sound is the condition.
        interpolation: the second transformer of a hierarchical pair, or None.
        files: the checkpoint file each part came from, for records; parts of ``PARTS``.
        words: what the caller calls things, for messages.
    """

    def __init__(
        self,
        model: Net2NetTransformer,
        interpolation: Net2NetTransformer | None = None,
        *,
        files: Files | None = None,
        words: Words = ARGUMENTS,
    ) -> None:
        if model.first_stage_model is None:
            raise UserError(
                "vqgan got nothing; expected the VQGAN whose codes the transformer was trained on"
            )
        self.model = model
        self.interpolation = interpolation
        self.files = dict(files or {})
        self.words = words
        self.precision: SamplingPrecision = "32"
        self.weights: WeightFormat = "full"
        self._check_models()

    # ---- loading and saving ----------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        gpt: str | Path | None = None,
        vqgan: str | Path | None = None,
        stft_vqgan: str | Path | None = None,
        interpolation: str | Path | None = None,
        device: str = "cpu",
        precision: SamplingPrecision = "32",
        weights: WeightFormat = "full",
        words: Words = ARGUMENTS,
    ) -> TATS:
        """Load a model for sampling.

        Args:
            name: a released transformer ("ucf101-base"), a folder that ``save_pretrained`` wrote,
                or a model of the Hugging Face hub ("user/model"; needs the extra ``hub``).
            gpt: in place of a name, the transformer's checkpoint: a file, or a released name.
            vqgan: with ``gpt``, the VQGAN's checkpoint.
            stft_vqgan: with ``gpt`` of a sound-conditioned model, its STFT-VQGAN's checkpoint.
            interpolation: with ``gpt``, the second transformer of a hierarchical pair.
            device: cpu, cuda, cuda:1 … or auto, the GPU where there is one.
            precision: of the transformer and the pixel decoder: 32, bf16 or 16.
            weights: full, or int8 to store the transformer's matrices in 8 bits.
            words: what the caller calls things, for messages.

        Raises:
            UserError: a part is missing, unreadable or does not fit the others.
        """
        given = {"gpt": gpt, "vqgan": vqgan, "stft_vqgan": stft_vqgan}
        named: dict[str, str | Path] = {k: v for k, v in given.items() if v}
        if interpolation:
            named["interpolation"] = interpolation
        if (name is None) == (not named):
            raise UserError(
                f"from_pretrained got {'neither a name nor' if name is None else 'a name and'} "
                "files; expected a name, or gpt=… and vqgan=…"
            )
        parts = named if name is None else _parts_of(name)
        if "gpt" not in parts:
            raise UserError(f"gpt got nothing beside {', '.join(parts)}; expected a transformer")
        tats = cls._load(parts, words)
        return tats.to(device, precision=precision, weights=weights)

    @classmethod
    def _load(cls, parts: Files, words: Words) -> TATS:
        vqgan, stft_vqgan = parts.get("vqgan", ""), parts.get("stft_vqgan", "")
        model = load_transformer(parts["gpt"], vqgan, stft_vqgan)
        second = None
        if "interpolation" in parts:
            second = load_transformer(parts["interpolation"], vqgan, stft_vqgan)
            # One VQGAN for both: held once, and moved once.
            second.first_stage_model = model.first_stage_model
        return cls(model, second, files=parts, words=words)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors) and settings (JSON) into a folder.

        Args:
            folder: made if missing; files of an earlier save are replaced or removed.

        Raises:
            UserError: it cannot be written, or the weights are in 8 bits.
        """
        if self.weights == "int8":
            raise UserError("save_pretrained got weights of 8 bits; expected a model as loaded")
        folder = Path(folder).expanduser()
        for part, module in self._modules().items():
            weights = without(module.state_dict(), NOT_NEEDED[type(module)], source=part)
            path = folder / f"{part}.safetensors"
            write_slim(path, weights, dict(module.hparams), source=part, overwrite=True)
        with atomic_path(folder / MODEL_FILE) as file:
            parts = {part: f"{part}.safetensors" for part in self._modules()}
            file.write_text(json.dumps(parts, indent=2) + "\n", encoding="utf-8")
        for part in set(PARTS) - set(parts):
            for suffix in ("safetensors", "json"):
                (folder / f"{part}.{suffix}").unlink(missing_ok=True)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save the model to the Hugging Face hub.

        Args:
            repo_id: "user/model"; made if missing.
            options: further arguments of ``huggingface_hub.upload_folder``.

        Returns:
            Its address.

        Raises:
            UserError: huggingface_hub is not installed.
        """
        import tempfile

        hub = _hub()
        hub.create_repo(repo_id, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, **options))

    # ---- where and how it computes ---------------------------------------------------------

    def to(
        self,
        device: str | torch.device = "cpu",
        *,
        precision: SamplingPrecision | None = None,
        weights: WeightFormat | None = None,
    ) -> TATS:
        """Move the model; the encoder and the codebook stay in float32 whatever the precision.

        Args:
            device: cpu, cuda, cuda:1 … or auto, the GPU where there is one.
            precision: of the transformer and the pixel decoder; None leaves it. bf16 and 16 round
                the transformer's weights, for good.
            weights: int8 stores the transformer's matrices in 8 bits, for good; None leaves it.

        Returns:
            The same model.

        Raises:
            UserError: there is no such device, it has no such precision or weights, or the weights
                were rounded before.
        """
        place = choose_device(str(device))
        precision, weights = precision or self.precision, weights or self.weights
        self._check_formats(precision, weights)
        if place.type == "cpu" and precision == "16":
            raise UserError("--precision got 16 on a CPU; expected 32 or bf16, or a GPU")
        for model in self._transformers():
            model.to(place)
            model.transformer.to(DTYPES[precision])
            if weights == "int8":
                _store_in_8_bits(model)
        self.precision, self.weights = precision, weights
        self.__dict__.pop("_decoder", None)
        return self

    def _check_formats(self, precision: str, weights: str) -> None:
        """Refuse formats there are none of, and those the weights were rounded too far for.

        A run is known by them, so the same formats must always mean the same weights.
        """
        for name, got, known in (
            ("precision", precision, tuple(DTYPES)),
            ("weights", weights, get_args(WeightFormat)),
        ):
            if got not in known:
                raise UserError(f"--{name} got {got!r}; expected one of {', '.join(known)}")
        is_rounded = self.precision != "32" or self.weights == "int8"
        was_finer = self.weights == "int8" and weights == "full"
        if was_finer or (is_rounded and precision != self.precision):
            raise UserError(
                f"--precision got {precision}, --weights {weights}, but the weights were rounded "
                f"to {self.precision}, {self.weights}; load the model again"
            )

    @property
    def vqgan(self) -> VQGAN:
        """The first stage, in float32."""
        assert self.model.first_stage_model is not None
        return self.model.first_stage_model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.vqgan.codebook.embeddings.device

    @functools.cached_property
    def _decoder(self) -> FrameDecoder:
        # A processor without bfloat16 products would only be slower with it.
        exact = self.device.type == "cpu" and not _multiplies_bfloat16()
        return FrameDecoder(self.vqgan, dtype=None if exact else DTYPES[self.precision])

    # ---- videos ----------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        frames: int | None = None,
        *,
        seed: int = 0,
        batch_size: int | Literal["auto"] = "auto",
        **wishes: Any,
    ) -> UInt8[Tensor, "n T H W 3"]:
        """Make videos.

        Args:
            n: how many.
            frames: length of each; None for that of the training clips.
            seed: sample i of a seed is always the same, and two seeds share none.
            batch_size: samples made together; auto for what the memory holds.
            wishes: ``label``, ``text``, ``audio``, ``top_k``, ``top_p``, ``temperature``,
                ``prime``, ``context`` …, as for ``sampler``.

        Returns:
            The videos, on the CPU.

        Raises:
            UserError: an argument does not fit the model.
        """
        n = _whole("n", n)
        size = 0 if batch_size == "auto" else _whole("batch_size", batch_size)
        sampler = self.sampler(frames, seed=seed, **wishes)
        size = size or fitting_batch_size(sampler)
        clips = []
        for start in range(0, n, size):
            samples = range(start, min(start + size, n))
            clips.append(torch.cat(list(sampler.stream(samples, sampler.new_canvas(samples))), 1))
        return torch.cat(clips)

    def stream(
        self, frames: int | None = None, *, seed: int = 0, **wishes: Any
    ) -> Iterator[UInt8[Tensor, "k H W 3"]]:
        """Make one video, and yield its frames as they are made.

        Args:
            frames: its length; None for that of the training clips.
            seed: as for ``sample``, whose first video this is.
            wishes: as for ``sampler``.

        Yields:
            The next frames, on the CPU; memory does not grow with their number.

        Raises:
            UserError: an argument does not fit the model.
        """
        sampler = self.sampler(frames, seed=seed, **wishes)
        return (
            piece[0] for piece in sampler.stream([0], sampler.new_canvas([0])) if piece.shape[1]
        )

    @torch.no_grad()
    def reconstruct(
        self, video: UInt8[Tensor, "*B T H W 3"] | UInt8[np.ndarray, "*B T H W 3"]
    ) -> UInt8[Tensor, "*B T H W 3"]:
        """Encode and decode video: what the first stage keeps of it.

        Args:
            video: one clip or a batch; height and width multiples of the VQGAN's.

        Returns:
            As many frames, on the CPU.

        Raises:
            UserError: the video does not fit the model.
        """
        clips = torch.as_tensor(video)
        is_video = clips.ndim in (4, 5) and clips.shape[-1] == 3 and clips.numel() > 0
        if clips.dtype != torch.uint8 or not is_video:
            raise UserError(
                f"video got {clips.dtype} {tuple(clips.shape)}; expected uint8 (T, H, W, 3) or "
                "(B, T, H, W, 3), none of them 0"
            )
        batch = to_float(clips if clips.ndim == 5 else clips[None])  # (B, C, T, H, W)
        n_frames, rate = batch.shape[2], self.vqgan.downsample[0]
        batch = F.pad(batch, (0, 0, 0, 0, 0, -n_frames % rate), mode="replicate")
        try:
            codes = self.vqgan.encode(batch.to(self.device))
        except ValueError as error:
            raise UserError(str(error)) from error
        made = self._decoder(codes)[:, :n_frames]
        return made if clips.ndim == 5 else made[0]

    def sampler(
        self,
        frames: int | None = None,
        *,
        label: int | Sequence[int] | None = None,
        text: str | Sequence[str] | None = None,
        audio: str | Path | SoundSource | None = None,
        prime: str | Path | np.ndarray | Tensor | None = None,
        prime_frames: int | None = None,
        context: int | None = None,
        top_k: int = 2048,
        top_p: float = 0.92,
        temperature: float = 1.0,
        first_filter: TokenFilter | None = None,
        interpolation: Interpolation = "released",
        n_latent_frames: int | None = None,
        sliding: bool = False,
        seed: int = 0,
    ) -> VideoSampler:
        """Plan videos without making any; ``sample``, ``stream`` and the scripts make them.

        Args:
            frames: length of a video; None for that of the training clips.
            label: class of every video, or classes that they take in turn; None for all in turn.
            text: caption of every video, or captions that they take in turn.
            audio: a sound or video file; video i goes with its i-th piece.
            prime: a clip that every video continues: a file, a folder of frames, or uint8
                (T, H, W, 3).
            prime_frames: frames of ``prime`` to keep, a multiple of the VQGAN's downsampling in
                time; None for as many as there are, up to half the video. Without ``prime``, of
                what is seen in ``audio``.
            context: latent frames each new latent frame of a long video is drawn from; None for
                the published 1.
            top_k: draw among the k likeliest tokens; 0 for all.
            top_p: draw among the likeliest tokens that make up this probability, (0, 1].
            temperature: divides the logits; 0 for the likeliest token.
            first_filter: of the first window of a hierarchical video; None for the same.
            interpolation: how a hierarchical pair is shown the next key frame, see ``fill``.
            n_latent_frames: length in latent frames, in place of ``frames``.
            sliding: slide the window also where the video is no longer than the training clips.
            seed: sample i of a seed is always the same, and two seeds share none.

        Raises:
            UserError: an argument does not fit the model.
        """
        try:
            token_filter = TokenFilter(top_k=top_k, top_p=top_p, temperature=temperature)
        except ValueError as error:
            raise UserError(str(error)) from error
        wishes = Wishes(
            token_filter, first_filter, 1 if context is None else context, interpolation
        )
        if interpolation not in get_args(Interpolation):
            raise UserError(f"interpolation got {interpolation!r}; expected released or trained")
        seed = _whole("seed", seed, least=0)
        frames = None if frames is None else _whole(self.words.frames, frames)
        source = self._sound_source(audio)
        given = self._given(label, text, source)
        plan = self._plan(given, wishes, self._n_latent_frames(frames, n_latent_frames), sliding)
        settings = {**plan.settings, "precision": self.precision, "weights": self.weights}
        beginning, n_known = None, 0
        if prime is not None:
            codes = prime_codes(prime, prime_frames, self.vqgan, plan.latent_shape).flatten()
            beginning, n_known = (lambda samples: codes.expand(len(samples), -1)), len(codes)
            settings["known_codes"] = codes.tolist()
        elif prime_frames and source is not None:
            beginning, n_known = self._seen(source, prime_frames)
            beginning([0])  # refuses a sound without pictures now
            settings["prime_frames"] = prime_frames
        elif prime_frames:
            raise UserError(f"prime_frames got {prime_frames} without a clip; expected prime")
        return VideoSampler(
            kind={"text": "text", "stft": "audio"}.get(self.condition or "", plan.kind),
            passes=plan.passes,
            decoder=self._decoder,
            latent_shape=plan.latent_shape,
            given=given,
            n_frames=frames,
            seed=seed,
            beginning=beginning,
            n_known=n_known,
            settings=settings,
            checkpoints=self.checkpoints,
        )

    # ---- how a plan comes about ------------------------------------------------------------

    @property
    def condition(self) -> str | None:
        """What videos are made from: label, text or stft; None for nothing."""
        return self.model.conditioner.batch_key

    def _given(
        self,
        label: int | Sequence[int] | None,
        text: str | Sequence[str] | None,
        source: SoundSource | None,
    ) -> Given:
        """Check that what is given is what the model is conditioned on."""
        for name, value, kind in (
            (self.words.label, label, "label"),
            (self.words.text, text, "text"),
            (self.words.audio, source, "stft"),
        ):
            if (value is not None) and self.condition != kind:
                raise UserError(
                    f"{self.words.gpt} got a model conditioned on {self.condition or 'nothing'}; "
                    f"expected one trained with --cond_stage_key {kind}, or no {name}"
                )
        if self.condition == "text":
            texts = [text] if isinstance(text, str) else list(text or ())
            if not texts or not all(caption.strip() for caption in texts):
                raise UserError(f"{self.words.text} got nothing; expected a caption")
            rate = FRAME_RATE / self.model.args.sample_every_n_frames
            return text_to_video.captions(self.model, texts, frame_rate=rate)
        if self.condition == "stft":
            if source is None:
                raise UserError(f"{self.words.audio} got nothing; expected a sound or video file")
            given = sound_to_video.sounds(source)
            given.tokens(self.model, [0])  # a sound of another length is met before any work
            return given
        labels = _class_numbers(self.words.label, label, self.model.cond_vocab_size)
        return classes(self.model, labels)

    def _plan(
        self, given: Given, wishes: Wishes, n_latent_frames: int | None, sliding: bool
    ) -> samplers.Plan:
        if self.interpolation is not None:
            n = n_latent_frames or INTERPOLATION_STRIDE * (self.model.latent_shape[0] - 1) + 1
            n_steps = max(math.ceil((n - 1) / INTERPOLATION_STRIDE), 1)  # one even for one frame
            n = INTERPOLATION_STRIDE * n_steps + 1
            return samplers.hierarchical(
                self.model, self.interpolation, given, wishes, n, self.words
            )
        n_trained = self.model.latent_shape[0]
        if self.condition == "stft" and (n_latent_frames or 0) > n_trained:
            raise UserError(
                f"{self.words.frames} got more than the {self.clip_shape[0]} frames of a clip; a "
                "sound is heard for one clip: expected that length or less"
            )
        slides = sliding or self.model.transformer.vtokens_grid is not None
        if not slides and (n_latent_frames is None or n_latent_frames <= n_trained):
            return samplers.short(self.model, given, wishes, n_latent_frames)
        return samplers.long(self.model, given, wishes, n_latent_frames or n_trained, self.words)

    def _n_latent_frames(self, frames: int | None, n_latent_frames: int | None) -> int | None:
        if frames is not None:
            return math.ceil(frames / self.vqgan.downsample[0])
        return None if n_latent_frames is None else _whole(self.words.frames, n_latent_frames)

    def _sound_source(self, audio: str | Path | SoundSource | None) -> SoundSource | None:
        if audio is None or not isinstance(audio, (str, Path)) or self.condition != "stft":
            return audio  # type: ignore[return-value]
        n_frames, height, _ = self.clip_shape
        path = Path(audio).expanduser()
        return sound_to_video.SoundFile(path, n_frames=n_frames, resolution=height)

    def _seen(self, source: SoundSource, n_frames: int) -> tuple[Beginning, int]:
        rate, n_most = self.vqgan.downsample[0], self.clip_shape[0] - 1
        if not rate <= n_frames <= n_most:
            raise UserError(
                f"--prime_frames got {n_frames}; expected {rate} to {n_most}: a latent frame is "
                f"{rate} frames, and the clip has {n_most + 1}"
            )
        return sound_to_video.first_codes(self.model, source, n_frames)

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the clips the transformer was trained on."""
        t, h, w = (
            cells * rate
            for cells, rate in zip(self.model.latent_shape, self.vqgan.downsample, strict=True)
        )
        return t, h, w

    def checkpoints(self) -> dict[str, dict[str, str]]:
        """Name the files the parts came from: as given, as found, and their sha256."""
        return self._checkpoints

    @functools.cached_property
    def _checkpoints(self) -> dict[str, dict[str, str]]:
        found = {
            part: resolve_checkpoint(given, flag=part, stage=None)
            for part, given in self.files.items()
        }
        return {
            part: {
                "given": str(self.files[part]), "file": str(path), "sha256": file_sha256(path),
            }
            for part, path in found.items()
        }  # fmt: skip

    def _transformers(self) -> list[Net2NetTransformer]:
        return [self.model, *([self.interpolation] if self.interpolation else [])]

    def _modules(self) -> dict[str, Net2NetTransformer | VQGAN]:
        """The parts there are, by name."""
        parts = {
            "gpt": self.model,
            "vqgan": self.vqgan,
            "stft_vqgan": self.model.cond_stage_model,
            "interpolation": self.interpolation,
        }
        return {name: module for name, module in parts.items() if module is not None}

    def _check_models(self) -> None:
        if self.model.transformer.n_unmasked:
            raise UserError(
                f"{self.words.gpt} got an interpolation model (n_unmasked > 0), which only fills "
                "in between key frames; expected an autoregressive model"
            )
        if self.interpolation is not None:
            samplers.check_pair(self.model, self.interpolation, self.words)


def _parts_of(name: str | Path) -> Files:
    """Find the files of a released model, a saved folder, or a model of the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _parts_in(folder)
    key = released_name(str(name))
    if key is not None and RELEASED[key].vqgan:
        parts = {"gpt": key, "vqgan": RELEASED[key].vqgan, "stft_vqgan": RELEASED[key].stft_vqgan}
        if RELEASED[key].kind == "autoregressive":
            parts["interpolation"] = key.removesuffix("-ar") + "-interp"
        return {part: file for part, file in parts.items() if file}
    words = str(name).split("/")
    if len(words) == 2 and all(words) and not str(name).startswith((".", "~", "/")):
        return _parts_in(_from_hub(str(name)))
    whole = ", ".join(key for key, file in RELEASED.items() if file.vqgan)
    raise UserError(
        f"from_pretrained got {str(name)!r}; expected one of {whole}, a folder that "
        "save_pretrained wrote, or a hub model such as user/model"
    )


def _parts_in(folder: Path) -> Files:
    try:
        parts = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        names = {part: Path(str(parts[part])).name for part in PARTS if part in parts}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} has no readable {MODEL_FILE} ({error}); expected a folder that "
            "save_pretrained wrote"
        ) from error
    return {part: folder / file for part, file in names.items()}


def _from_hub(name: str) -> Path:
    """Fetch a model of the hub; its folder."""
    hub = _hub(f"{name!r} is neither a released model nor a folder here; ")
    try:
        return Path(hub.snapshot_download(name))
    except (OSError, ValueError) as error:  # what the hub's own errors are made of
        reason = " ".join(str(error).split())
        raise UserError(
            f"from_pretrained got {name!r}, which is no folder here, and the hub says: {reason}"
        ) from error


def _hub(why: str = "") -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{why}the Hugging Face hub needs huggingface_hub; pip install 'tats[hub]'"
        ) from error
    return huggingface_hub


def _store_in_8_bits(model: Net2NetTransformer) -> None:
    try:
        quantize_(model.transformer)
    except ValueError as error:
        raise UserError(f"--weights got int8: {error}") from error


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it (AVX-512 BF16 or AMX)."""
    library = torch.backends.mkldnn
    return library.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _whole(name: str, value: Any, *, least: int = 1) -> int:
    """Give a whole number, whatever type it comes in.

    Raises:
        UserError: it is none, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} got {value!r}; expected a whole number") from None
    if number < least:
        raise UserError(f"{name} got {number}; expected {least} or more")
    return number


def _class_numbers(name: str, label: Any, n_classes: int) -> list[int]:
    """Give the classes of a number, a list, an array or a tensor; none for None.

    Raises:
        UserError: they are no classes of the model.
    """
    try:
        given = torch.as_tensor([] if label is None else label).flatten().tolist()
        labels = [operator.index(number) for number in given]
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} got {label!r}; expected whole numbers") from None
    if labels and not 0 <= min(labels) <= max(labels) < n_classes:
        raise UserError(f"{name} got {labels}; expected classes 0 to {n_classes - 1}")
    return labels
