"""The front door: from names and files to videos, by one class."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from load_script import REPOSITORY, load_script
from small_sound import learn_codes, write_tone_video
from tiny import attend_sharply, save_checkpoint, tiny_transformer, tiny_vqgan

from tats import TATS
from tats.errors import UserError
from tats.text import find_vocabulary

N_CLASSES = 3
CLIP = np.zeros((16, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of one VQGAN (4x4x4 latents of 16x16x16 clips) and transformers on it."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vqgan = tiny_vqgan()
    sound = tiny_vqgan(image_channels=1, n_codes=16, downsample=(4, 32, 8), stft_data=True)
    learn_codes(sound)
    models = {
        "vqgan": vqgan,
        "stft_vqgan": sound,
        "label": tiny_transformer(vqgan, class_cond_dim=N_CLASSES),
        "uncond": tiny_transformer(vqgan, unconditional=True),
        "fill": tiny_transformer(
            vqgan, unconditional=True, n_unmasked=16, block_size=80, sequence_length=20
        ),
        "fill-label": tiny_transformer(
            vqgan, class_cond_dim=N_CLASSES, n_unmasked=16, block_size=80, sequence_length=20
        ),
        "text": tiny_transformer(vqgan, cond_stage_key="text", text_cond=True, block_size=320),
        "stft": tiny_transformer(
            vqgan,
            cond_stage_key="stft",
            stft_data=True,
            block_size=80,
            cond_stage_model=sound,
        ),
    }
    for name in ("stft", "text"):
        attend_sharply(models[name].transformer)
    return {name: save_checkpoint(model, folder / f"{name}.ckpt") for name, model in models.items()}


@pytest.fixture
def vocabulary() -> Path:
    try:
        return find_vocabulary()
    except UserError:
        pytest.skip("no BPE vocabulary: python scripts/fetch_weights.py")


def load(files: dict[str, Path], kind: str, **parts: str) -> TATS:
    named = {part: files[name] for part, name in parts.items()}
    return TATS.from_pretrained(gpt=files[kind], vqgan=files["vqgan"], **named)


def test_videos_come_as_bytes_of_the_length_asked_for(files) -> None:
    tats = load(files, "uncond")
    assert torch.equal(tats.sample(frames=30), tats.sample(frames=30, context=None, prime=None))
    for frames, length in ((None, 16), (16, 16), (7, 7), (30, 30)):
        videos = tats.sample(n=2, frames=frames)
        assert videos.shape == (2, length, 16, 16, 3) and videos.dtype == torch.uint8
        assert not torch.equal(videos[0], videos[1])


@pytest.mark.parametrize("frames", [None, 90])
def test_a_stream_gives_the_first_video_piece_by_piece(files, frames: int | None) -> None:
    tats = load(files, "label")
    pieces = list(tats.stream(frames=frames, seed=3))
    (whole,) = tats.sample(frames=frames, seed=3)
    assert torch.equal(torch.cat(pieces), whole)
    assert len(pieces) > 1 or frames is None


def test_videos_depend_on_seed_and_number_alone(files) -> None:
    tats = load(files, "uncond")
    at_once = tats.sample(n=5, seed=1, batch_size=5)
    assert torch.equal(at_once, tats.sample(n=5, seed=1, batch_size=2))
    assert torch.equal(at_once[:2], tats.sample(n=2, seed=1))
    others = tats.sample(n=5, seed=2)
    same = (at_once[:, None] == others[None]).flatten(2).all(dim=2)
    assert not same.any(), "two seeds share a video"


def test_classes_are_taken_in_turn(files) -> None:
    tats = load(files, "label")
    greedy = {"temperature": 0.0}
    by_class = [tats.sample(label=label, **greedy)[0] for label in range(N_CLASSES)]
    assert not torch.equal(by_class[0], by_class[1])
    for labels, expected in (([2, 0], [2, 0, 2, 0]), (None, [0, 1, 2, 0])):
        videos = tats.sample(n=4, label=labels, **greedy)
        assert all(torch.equal(v, by_class[k]) for v, k in zip(videos, expected, strict=True))
        sampler = tats.sampler(label=labels)
        assert [sampler.describe(i) for i in range(4)] == [{"label": k} for k in expected]


def test_a_pair_writes_key_frames_first_and_shows_frames_before_all_of_them_are_there(
    files,
) -> None:
    tats = load(files, "uncond", interpolation="fill")
    sampler = tats.sampler(n_latent_frames=33)
    canvas, key_frames = sampler.new_canvas([0]), slice(0, None, 4 * 16)
    for frames in sampler.stream([0], canvas):
        if frames.shape[1]:
            break
    n_keys = int((canvas[0, key_frames] >= 0).sum())
    assert n_keys < 9, "frames could have been shown before"
    whole = tats.sample(frames=129)
    assert whole.shape == (1, 129, 16, 16, 3)
    assert torch.equal(torch.cat(list(tats.stream(frames=129))), whole[0])


@pytest.mark.parametrize("interpolation", [None, "fill"])
def test_an_interrupted_video_goes_on_and_ends_the_same(files, interpolation) -> None:
    parts = {"interpolation": interpolation} if interpolation else {}
    sampler = load(files, "uncond", **parts).sampler(n_latent_frames=33, seed=5)
    samples = [4, 7]
    canvas = sampler.new_canvas(samples)
    whole = torch.cat(list(sampler.stream(samples, canvas)), dim=1)
    for n_steps in (1, 4, 8):
        again = sampler.new_canvas(samples)
        for _, _ in zip(range(n_steps), sampler.stream(samples, again), strict=False):
            pass
        assert (again < 0).any()
        assert torch.equal(torch.cat(list(sampler.stream(samples, again)), dim=1), whole)
        assert torch.equal(again, canvas)


def test_a_text_decides_the_video(files, vocabulary) -> None:
    tats = load(files, "text")
    jumps, eats = "Mugen jumps up", "a worm eats the gem and kills a snail twice"
    videos = tats.sample(n=2, text=[jumps, eats])
    assert torch.equal(videos[:1], tats.sample(text=jumps))
    assert not torch.equal(videos[:1], tats.sample(text=eats))
    assert tats.sampler(text=[jumps, eats]).describe(3) == {"text": eats}


def test_a_sound_decides_the_video(files, tmp_path: Path) -> None:
    tats = load(files, "stft", stft_vqgan="stft_vqgan")
    for name, pitch in (("low", 300.0), ("high", 9000.0)):
        write_tone_video(tmp_path / f"{name}.mp4", pitch)
    low, high = (tats.sample(audio=tmp_path / f"{name}.mp4") for name in ("low", "high"))
    assert not torch.equal(low, high)
    begun = tats.sample(audio=tmp_path / "low.mp4", prime_frames=8)
    assert begun.shape == low.shape and not torch.equal(begun, low)


def test_videos_continue_a_real_clip(files) -> None:
    tats = load(files, "uncond")
    clip = torch.randint(256, (8, 16, 16, 3), dtype=torch.uint8)
    sampler = tats.sampler(24, prime=clip)
    codes = tats.vqgan.encode(clip.movedim(-1, 0)[None].float() / 255 - 0.5)
    assert sampler.new_canvas([0, 1])[:, :32].equal(codes.flatten(1).expand(2, -1))
    assert tats.sample(n=2, frames=24, prime=clip.numpy()).shape == (2, 24, 16, 16, 3)


@pytest.mark.parametrize("shape", [(16, 16, 16, 3), (7, 16, 32, 3), (2, 5, 16, 16, 3)])
def test_reconstruction_keeps_the_shape(files, shape: tuple[int, ...]) -> None:
    tats = load(files, "uncond")
    video = torch.randint(256, shape, dtype=torch.uint8)
    made = tats.reconstruct(video)
    assert made.shape == video.shape and made.dtype == torch.uint8
    assert torch.equal(made, tats.reconstruct(video.numpy()))
    if shape[-4] == 16:
        with torch.no_grad():
            expected = tats.vqgan.reconstruct(video.movedim(-1, 0)[None].float() / 255 - 0.5)
        unit = (expected.clamp(-0.5, 0.5) + 0.5)[0].movedim(0, -1) * 255
        assert (made.float() - unit).abs().max() <= 1.01


def test_only_the_transformer_and_the_pixel_decoder_change_precision(files) -> None:
    tats = load(files, "uncond")
    exact = tats.sample(temperature=0.0)
    before = {name: tensor.clone() for name, tensor in tats.vqgan.state_dict().items()}
    tats.to("cpu", precision="bf16")
    assert {p.dtype for p in tats.model.transformer.parameters()} == {torch.bfloat16}
    after = tats.vqgan.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    clip = torch.randint(256, (16, 16, 16, 3), dtype=torch.uint8)
    assert tats.sample(prime=clip).shape == exact.shape  # encodes with the codebook in float32


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"precision": "bf16"}, {"precision": "32"}),
        ({"weights": "int8"}, {"weights": "full"}),
        ({"weights": "int8"}, {"precision": "bf16"}),
    ],
)
def test_rounded_weights_do_not_pass_for_those_of_the_file(files, first, then) -> None:
    tats = load(files, "uncond").to("cpu", **first)
    known = (tats.precision, tats.weights, tats.sampler().identity)
    with pytest.raises(UserError, match=r"the weights were rounded .* load the model again"):
        tats.to("cpu", **then)
    assert (tats.precision, tats.weights, tats.sampler().identity) == known
    assert tats.to("cpu") is tats and tats.sample().shape[0] == 1


@pytest.mark.parametrize("formats", [{"precision": "8"}, {"weights": "int4"}])
def test_formats_there_are_none_of_are_refused(files, formats: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"got '(8|int4)'; expected one of"):
        load(files, "uncond").to("cpu", **formats)


def test_a_folder_stored_in_bfloat16_is_computed_with_in_float32(files, tmp_path: Path) -> None:
    load(files, "uncond").to("cpu", precision="bf16").save_pretrained(tmp_path)
    again = TATS.from_pretrained(tmp_path)
    for module in (again.model.transformer, again.vqgan):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_second_save_leaves_nothing_of_the_first(files, tmp_path: Path) -> None:
    load(files, "uncond", interpolation="fill").save_pretrained(tmp_path)
    load(files, "uncond").save_pretrained(tmp_path)
    assert not list(tmp_path.glob("interpolation*"))
    again = TATS.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path)  # over the very files it was loaded from
    assert torch.equal(TATS.from_pretrained(tmp_path).sample(), again.sample())


@pytest.mark.parametrize("n_frames", [1, 4, 6])
def test_a_pair_makes_videos_shorter_than_a_stride_too(files, n_frames: int) -> None:
    tats = load(files, "uncond", interpolation="fill")
    short = tats.sample(frames=n_frames)
    assert torch.equal(short, tats.sample(frames=17)[:, :n_frames])


@pytest.mark.parametrize(
    "labels", [2, np.int64(2), [2, 0], np.array([2, 0]), torch.tensor([2, 0]), (2,)]
)
def test_classes_come_in_any_type_of_number(files, labels: object) -> None:
    tats = load(files, "label")
    cycle = np.atleast_1d(np.asarray(labels)).tolist()
    identity = tats.sampler(label=labels, seed=np.int64(1), frames=np.int64(8)).identity
    assert identity["given"] == {"labels": cycle} and json.dumps(identity)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("label", {}), ("uncond", {"interpolation": "fill"}), ("stft", {"stft_vqgan": "stft_vqgan"})],
)
def test_a_saved_folder_makes_the_same_videos(files, tmp_path: Path, kind, parts) -> None:
    tats = load(files, kind, **parts)
    tats.save_pretrained(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")  # folders may be moved
    wishes = {}
    if kind == "stft":
        write_tone_video(tmp_path / "tone.mp4", 440.0)
        wishes = {"audio": tmp_path / "tone.mp4"}
    again = TATS.from_pretrained(tmp_path / "b")
    assert torch.equal(again.sample(n=2, **wishes), tats.sample(n=2, **wishes))
    names = {"gpt", "vqgan", *parts}
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "tats.json",
        *(f"{name}.{suffix}" for name in names for suffix in ("safetensors", "json")),
    }
    assert json.loads((tmp_path / "b" / "gpt.json").read_text())["args"]["n_layer"] == 2


def test_a_model_goes_to_the_hub_and_comes_back(files, tmp_path: Path, monkeypatch) -> None:
    shelf: dict[str, Path] = {}

    def upload_folder(repo_id: str, folder_path: str, **_: object) -> str:
        shelf[repo_id] = tmp_path / repo_id.replace("/", "--")
        shelf[repo_id].mkdir()
        for file in Path(folder_path).iterdir():
            (shelf[repo_id] / file.name).write_bytes(file.read_bytes())
        return f"https://hub/{repo_id}"

    fake = SimpleNamespace(
        create_repo=lambda repo_id, exist_ok: None,
        upload_folder=upload_folder,
        snapshot_download=lambda repo_id: str(shelf[repo_id]),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    tats = load(files, "uncond")
    assert tats.push_to_hub("ada/clips") == "https://hub/ada/clips"
    assert torch.equal(TATS.from_pretrained("ada/clips").sample(), tats.sample())


def test_without_the_hub_library_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'tats\[hub\]'"):
        TATS.from_pretrained("ada/clips")


def test_what_the_hub_says_no_with_is_one_line(monkeypatch) -> None:
    def snapshot_download(repo_id: str) -> str:
        raise OSError(f"404 Client Error\n\nRepository Not Found: {repo_id}")

    fake = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    with pytest.raises(UserError, match=r"no folder here, and the hub says: 404 .* runs/mine$"):
        TATS.from_pretrained("runs/mine")


def test_a_sound_is_not_stretched_over_a_longer_video(files, tmp_path: Path) -> None:
    write_tone_video(tmp_path / "tone.mp4", 440.0)
    tats = load(files, "stft", stft_vqgan="stft_vqgan")
    with pytest.raises(UserError, match="frames got more than the 16 frames of a clip"):
        tats.sample(frames=32, audio=tmp_path / "tone.mp4")


def test_a_released_name_finds_its_vqgan(files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for name, kind in (("ucf101-base", "label"), ("ucf101-vqgan", "vqgan")):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_bytes(files[kind].read_bytes())
    tats = TATS.from_pretrained("ucf101-base")
    assert torch.equal(tats.sample(), load(files, "label").sample())
    recorded = tats.checkpoints()
    assert recorded["vqgan"]["given"] == "ucf101-vqgan"
    assert Path(recorded["vqgan"]["file"]) == tmp_path / "checkpoints" / "ucf101-vqgan.ckpt"
    assert len(recorded["gpt"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("kind", "wishes", "message"),
    [
        ("uncond", {"label": 1}, "gpt got a model conditioned on nothing; .* or no label"),
        ("label", {"label": 3}, r"label got \[3\]; expected classes 0 to 2"),
        ("label", {"text": "a"}, "gpt got a model conditioned on label; .* or no text"),
        ("text", {}, "text got nothing; expected a caption"),
        ("text", {"text": []}, "text got nothing; expected a caption"),
        ("uncond", {"frames": 0}, "frames got 0"),
        ("uncond", {"frames": 1.5}, "frames got 1.5; expected a whole number"),
        ("uncond", {"seed": -1}, "seed got -1; expected 0 or more"),
        ("uncond", {"seed": 1.5}, "seed got 1.5; expected a whole number"),
        ("uncond", {"batch_size": 0}, "batch_size got 0; expected 1 or more"),
        ("uncond", {"batch_size": "many"}, "batch_size got 'many'; expected a whole number"),
        ("uncond", {"n": 0}, "n got 0; expected 1 or more"),
        ("uncond", {"interpolation": "x"}, "interpolation got 'x'; expected released or trained"),
        ("uncond", {"prime_frames": 4}, "prime_frames got 4 without a clip"),
        ("uncond", {"prime": CLIP, "prime_frames": -4}, "prime_frames got -4"),
        ("uncond", {"prime": CLIP, "frames": 4}, "--prime needs a video of more than 4 frames"),
        ("label", {"label": 1.5}, "label got 1.5; expected whole numbers"),
        ("label", {"label": "cat"}, "label got 'cat'; expected whole numbers"),
        ("label", {"label": -1}, r"label got \[-1\]; expected classes 0 to 2"),
        ("text", {"text": " "}, "text got nothing; expected a caption"),
        ("uncond", {"frames": 40, "context": 4}, "context got 4; expected 1 to 3"),
        ("uncond", {"top_p": 1.5}, "top_p got 1.5"),
        ("uncond", {"prime": np.zeros((8, 4))}, "prime holds float64"),
        ("uncond", {"n": 0}, "n got 0"),
    ],
)
def test_mistakes_get_one_line(files, vocabulary, kind: str, wishes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(files, kind).sample(**wishes)


def test_models_that_do_not_belong_together_are_refused(files) -> None:
    for parts, message in (
        ({"gpt": files["fill"], "vqgan": files["vqgan"]}, "got an interpolation model"),
        ({"gpt": files["uncond"]}, "vqgan"),
        ({"vqgan": files["vqgan"]}, "gpt got nothing"),
        (
            {"gpt": files["uncond"], "vqgan": files["vqgan"], "interpolation": files["uncond"]},
            "interpolation got a model without n_unmasked",
        ),
        (
            {"gpt": files["uncond"], "vqgan": files["vqgan"], "interpolation": files["fill-label"]},
            "interpolation got a model of 3 classes; expected 0",
        ),
    ):
        with pytest.raises(UserError, match=message):
            TATS.from_pretrained(**parts)
    for name in ("no-such-model", "ucf101-vqgan"):
        with pytest.raises(UserError, match="expected one of ucf101-base"):
            TATS.from_pretrained(name)


def python_of(page: Path, marker: str) -> str:
    """The Python lines of a page that hold some words."""
    blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = [block.split("```")[0] for block in blocks if marker in block]
    return code


def test_the_readmes_lines_run_as_written(files, tmp_path: Path, monkeypatch, capsys) -> None:
    load(files, "label").save_pretrained(tmp_path / "out" / "quickstart" / "model")
    monkeypatch.chdir(tmp_path)
    code = python_of(REPOSITORY / "README.md", "out/quickstart/model")
    assert len(code.strip().splitlines()) == 6
    result: dict = {}
    exec(code, result)
    assert result["clips"].shape == (2, 16, 16, 16, 3)
    lines = capsys.readouterr().out.splitlines()
    assert sum(int(line.split("[")[1].split(",")[0]) for line in lines) == 128


def test_the_readmes_released_model_is_sampled_as_written(files, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    many = tiny_transformer(load(files, "label").vqgan, class_cond_dim=8)
    (tmp_path / "checkpoints" / "ucf101-vqgan.ckpt").write_bytes(files["vqgan"].read_bytes())
    save_checkpoint(many, tmp_path / "checkpoints" / "ucf101-base.ckpt")
    code = python_of(REPOSITORY / "README.md", '"ucf101-base"').replace("4096", "40")
    result: dict = {}
    exec(code, result)
    assert result["video"].shape == (4, 64, 16, 16, 3)
    assert sum(len(frames) for frames in result["tats"].stream(frames=40, seed=0)) == 40


def test_a_script_puts_a_model_into_one_folder(files, tmp_path: Path, capsys) -> None:
    parts = {"gpt": "uncond", "vqgan": "vqgan", "interpolation": "fill"}
    flags = [word for part, kind in parts.items() for word in (f"--{part}", str(files[kind]))]
    load_script("scripts/save_pretrained.py").main([*flags, "--out", str(tmp_path / "model")])
    assert json.loads(capsys.readouterr().out)["parts"] == list(parts)
    again = TATS.from_pretrained(tmp_path / "model")
    assert torch.equal(again.sample(), load(files, "uncond", interpolation="fill").sample())
