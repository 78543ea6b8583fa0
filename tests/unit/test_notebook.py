"""The notebook runs from top to bottom, with tiny models in place of its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

from tats.text import find_vocabulary

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "text_to_video.ipynb"


def test_the_notebook_is_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
def test_the_notebook_writes_a_video_from_captions(tmp_path: Path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    try:
        find_vocabulary()
    except ValueError:
        pytest.skip("set-up had no network")
    vqgan = tiny_vqgan()
    gpt = tiny_transformer(vqgan, cond_stage_key="text", text_cond=True, block_size=320)
    save_checkpoint(vqgan, tmp_path / "mugen-vqgan.ckpt")
    save_checkpoint(gpt, tmp_path / "mugen-base.ckpt")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "(4, 16, 16, 16, 3) torch.uint8" in printed
    assert "mugen walks to the right" in printed
    assert (tmp_path / "text_to_video.mp4").stat().st_size > 1000
