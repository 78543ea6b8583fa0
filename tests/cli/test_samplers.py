"""The samplers' scripts, end to end with tiny models."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from load_script import load_script
from sampler_runs import LONG, N_CLASSES, SHORT, command, refused, run, save_models

from tats import TATS, load_transformer, load_vqgan
from tats.evaluation import load_i3d
from tats.evaluation.i3d import WeightSource
from tats.sampling.pixels import FrameDecoder
from tats.video_io import write_video


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_models(tmp_path_factory.mktemp("models"))


def test_short_sampler_writes_exactly_n_clips_and_a_record(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = shlex.split("--class_cond --n_sample 5 --batch_size 2 --save_videos --run 1")
    result = run(SHORT, command(models, tmp_path) + flags, capsys)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("ucf101_short_topp0.92_topk2048_run1-")
    clips = np.load(folder / "clips.npy")
    assert clips.shape == (5, 16, 16, 16, 3) and clips.dtype == np.uint8
    assert len({clip.tobytes() for clip in clips}) == 5
    assert result == {"clips": str(folder / "clips.npy"), "n_clips": 5}
    assert [path.name for path in (folder / "videos").iterdir()] == ["samples_00005-00009.mp4"]
    record = json.loads((folder / "run.json").read_text())
    assert record["argv"][-1] == "1" and record["flags"]["top_k"] == 2048
    labels = [{"sample": i, "label": i % N_CLASSES} for i in range(5, 10)]
    assert record["samples"] == labels and record["seed"] == 0
    assert record["checkpoints"]["gpt"]["given"] == str(models["label"])
    assert all(len(file["sha256"]) == 64 for file in record["checkpoints"].values())
    assert record["status"] == "finished"
    assert not list(folder.rglob("*tmp*"))


def test_a_sample_is_the_same_in_any_batch_size_and_any_split_into_runs(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def clips(flags: str) -> np.ndarray:
        arguments = [*command(models, tmp_path), "--class_cond", *shlex.split(flags)]
        return np.load(run(SHORT, arguments, capsys)["clips"])

    at_once = clips("--n_sample 6 --batch_size 6")
    assert np.array_equal(at_once, clips("--n_sample 6 --batch_size 4"))
    assert np.array_equal(at_once[3:], clips("--n_sample 3 --batch_size 1 --run 1"))
    assert not np.array_equal(at_once, clips("--n_sample 6 --batch_size 6 --seed 100"))


def test_every_class_is_visited_equally(models: dict[str, Path]) -> None:
    script = load_script(SHORT)
    args = script.build_parser().parse_args([*command(models, Path("x")), "--class_cond"])
    model = load_transformer(args.gpt_ckpt, args.vqgan_ckpt)
    (share,) = TATS(model).sampler(label=args.class_label).passes
    assert share.condition(range(4, 10)).tolist() == [[1], [2], [0], [1], [2], [0]]


def test_runs_of_other_lengths_and_seeds_leave_each_other_alone(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command(models, tmp_path, "uncond"), "--save_videos"]
    kept: dict[Path, bytes] = {}
    for flags in (
        "--n_sample 3",
        "--n_sample 1",
        "--n_sample 3 --seed 1",
        "--n_sample 3 --top_k 9",
    ):
        clips = Path(run(SHORT, [*arguments, *shlex.split(flags)], capsys)["clips"])
        kept[clips] = clips.read_bytes()
    assert len(kept) == 4
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_chosen_classes_are_taken_in_turn_and_recorded(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = shlex.split("--class_label 2 0 --n_sample 3 --temperature 0")
    result = run(SHORT, command(models, tmp_path) + flags, capsys)
    clips = np.load(result["clips"])
    assert np.array_equal(clips[0], clips[2]) and not np.array_equal(clips[0], clips[1])
    record = json.loads((Path(result["clips"]).parent / "run.json").read_text())
    assert [sample["label"] for sample in record["samples"]] == [2, 0, 2]


def test_codes_are_written_where_asked_for_and_decode_to_the_clips(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = shlex.split("--class_cond --n_sample 2 --save_codes")
    folder = Path(run(SHORT, command(models, tmp_path) + flags, capsys)["clips"]).parent
    codes, clips = np.load(folder / "codes.npy"), np.load(folder / "clips.npy")
    assert codes.shape == (2, 4, 4, 4) and codes.dtype == np.int32
    made = FrameDecoder(load_vqgan(models["vqgan"]))(torch.from_numpy(codes).long())
    assert np.array_equal(made.numpy(), clips)


def test_released_names_are_sampled_and_recorded_as_the_files_they_stand_for(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TATS_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "checkpoints"
    kept.mkdir(parents=True)
    for name, kind in (("ucf101-base", "label"), ("ucf101-vqgan", "vqgan")):
        (kept / f"{name}.ckpt").write_bytes(models[kind].read_bytes())
    named = ["--gpt_ckpt", "UCF-101 TATS-base", "--vqgan_ckpt", "ucf101-vqgan"]
    flags = ["--n_sample", "2", "--class_cond", "--save", str(tmp_path / "out")]
    by_name = run(SHORT, [*named, *flags], capsys)
    record = json.loads((Path(by_name["clips"]).parent / "run.json").read_text())
    assert record["checkpoints"]["gpt"]["given"] == "UCF-101 TATS-base"
    assert record["checkpoints"]["gpt"]["file"] == str(kept / "ucf101-base.ckpt")
    # The run is known by the contents of its files, whatever they are called.
    by_path = run(SHORT, [*command(models, tmp_path / "out"), *flags[:3]], capsys)
    assert by_path["clips"] == by_name["clips"]


def test_long_sampler_writes_every_frame_as_a_picture(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = shlex.split(
        "--dataset ucf101 --class_cond --sample_length 6 --temporal_sample_pos 2 --batch_size 2"
        " --n_sample 2 --save_videos"
    )
    folder = Path(run(LONG, command(models, tmp_path) + flags, capsys)["clips"]).parent
    clips = np.load(folder / "clips.npy")
    assert clips.shape == (2, 24, 16, 16, 3)
    from PIL import Image

    for sample in range(2):
        pictures = sorted((folder / "frames" / f"sample_{sample:05d}").iterdir())
        assert len(pictures) == 24
        frames = np.stack([np.asarray(Image.open(picture)) for picture in pictures])
        assert np.array_equal(frames, clips[sample])
    assert len(list((folder / "videos").glob("*.mp4"))) == 1


def test_a_model_of_crops_slides_over_the_whole_frame(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command(models, tmp_path, "crops"), "--n_sample", "2", "--sample_length", "5"]
    clips = np.load(run(LONG, arguments, capsys)["clips"])
    assert clips.shape == (2, 20, 24, 24, 3)
    asked = run(LONG, [*arguments, "--sample_resolution", "6", "--batch_size", "1"], capsys)
    assert np.array_equal(np.load(asked["clips"]), clips)


def test_half_precision_samples_too(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command(models, tmp_path), "--class_cond", "--n_sample", "3"]
    clips = np.load(run(SHORT, [*arguments, "--precision", "bf16"], capsys)["clips"])
    assert clips.shape == (3, 16, 16, 16, 3) and clips.std() > 0
    assert "--precision got 16" in refused(
        SHORT, [*arguments, "--precision", "16", "--device", "cpu"], capsys
    )


def test_without_save_videos_there_is_the_array_alone(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = shlex.split("--sample_length 5 --n_sample 1")
    folder = Path(run(LONG, command(models, tmp_path, "uncond") + flags, capsys)["clips"]).parent
    assert sorted(path.name for path in folder.iterdir()) == ["clips.npy", "run.json"]


@pytest.mark.parametrize(
    ("script", "kind", "flags", "message"),
    [
        (SHORT, "label", "--n_sample 0", "--n_sample got 0"),
        (SHORT, "label", "--batch_size 0", "--batch_size got 0"),
        (SHORT, "label", "--top_p 0", "--top_p got 0"),
        (SHORT, "label", "--top_p 1.5", "--top_p got 1.5"),
        (SHORT, "label", "--top_k -1", "--top_k got -1"),
        (SHORT, "label", "--dataset no/such", "--dataset got"),
        (SHORT, "label", "--compute_fvd", "--data_path"),
        (SHORT, "uncond", "--class_cond", "--class_cond got an unconditional"),
        (SHORT, "text", "", "conditioned on text"),
        (SHORT, "interpolation", "", "interpolation model"),
        (SHORT, "short-block", "", "needs 64 inputs"),
        (SHORT, "vqgan", "", "holds a vqgan model; expected a transformer"),
        (SHORT, "note", "", "note.txt"),
        (SHORT, "cut", "", "cut.ckpt"),
        (SHORT, "label", "--gpt_ckpt gone.ckpt", "gone.ckpt"),
        (SHORT, "label", "--device cuda:99", "--device got cuda:99"),
        (SHORT, "label", "--device tpu", "--device got tpu"),
        (LONG, "uncond", "--class_cond", "--class_cond got an unconditional"),
        (LONG, "label", "--temporal_sample_pos 4", "--temporal_sample_pos got 4"),
        (LONG, "label", "--temporal_sample_pos 0", "--temporal_sample_pos got 0"),
        (LONG, "label", "--sample_length 0", "--sample_length got 0"),
        (LONG, "label", "--sample_resolution 16", "--sample_resolution got 16; expected 4"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    script: str,
    kind: str,
    flags: str,
    message: str,
) -> None:
    save = tmp_path / "new" / "results"
    line = refused(script, command(models, save, kind) + shlex.split(flags), capsys)
    assert message in line
    assert not (tmp_path / "new").exists()


def small_dataset(folder: Path, n_videos: int = 3) -> Path:
    for split in ("train", "test"):
        for i in range(n_videos):
            frames = torch.randint(256, (17, 20, 20, 3), dtype=torch.uint8)
            write_video(folder / split / "walk" / f"{i}.mp4", frames.numpy(), fps=8)
    return folder


@pytest.fixture
def pixel_features(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand-in for I3D, whose weights a test cannot count on: mean colours of some frames.

    The list is of the clips in each pass.
    """
    passes: list[int] = []

    class Colours(torch.nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            passes.append(len(video))
            return video[:, :, ::4].mean(dim=(3, 4)).flatten(1)

    source = WeightSource("test", "none", "0")
    monkeypatch.setattr(
        "tats.evaluation.fvd.load_i3d", lambda path: load_i3d(path) if path else Colours()
    )
    monkeypatch.setattr("tats.evaluation.fvd.i3d_source", lambda path: source)
    return passes


def test_fvd_compares_exactly_the_clips_it_was_asked_for(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pixel_features: list[int],
) -> None:
    data = small_dataset(tmp_path / "data")
    flags = shlex.split(
        f"--data_path {data} --compute_fvd --n_sample 5 --batch_size 3 --resolution 16"
        " --num_workers 0 --dataset games"
    )
    result = run(SHORT, command(models, tmp_path / "out") + flags, capsys)
    assert (result["n_fake"], result["n_real"]) == (5, 5)
    assert np.isfinite([result["fvd"], result["kvd"]]).all()
    record = json.loads((Path(result["clips"]).parent / "run.json").read_text())
    assert record["result"] == result
    assert result["i3d"]["kind"] == "test"
    # Three videos of 17 frames hold six clips of 16; scores of seven say that one is missing.
    more = run(SHORT, [*command(models, tmp_path / "out"), *flags, "--n_sample", "7"], capsys)
    assert (more["n_fake"], more["n_real"]) == (7, 6)
    # Real clips come as they are read, samples all together.
    assert pixel_features == [3, 2, 5, 3, 3, 7]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--n_sample 1", "--n_sample got 1"),
        ("--vtokens", "--compute_fvd got --vtokens"),
        ("--sequence_length 32", "real clips of 32 frames, sampled ones have 16"),
        ("", "real clips of 64×64 pixels, sampled ones have 16×16"),
        ("--resolution 16 --i3d_path absent.pt", "absent.pt"),
        ("--resolution 16 --data_path nowhere", "nowhere"),
    ],
)
def test_fvd_that_cannot_be_computed_is_refused_before_sampling(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pixel_features: list[int],
    flags: str,
    message: str,
) -> None:
    data = small_dataset(tmp_path / "data", n_videos=1)
    arguments = [*command(models, tmp_path / "out"), "--compute_fvd", "--data_path", str(data)]
    arguments += ["--num_workers", "0", *shlex.split(flags)]
    assert message in refused(SHORT, arguments, capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = command(models, tmp_path / "file" / "results", "cut")
    assert "--save got" in refused(SHORT, arguments, capsys)
    assert "--save got" in refused(LONG, arguments, capsys)
