"""The codebook's running means, restarts and gradients against reference outputs."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from tats.models.codebook import Codebook


def recorded_draws(step: dict[str, torch.Tensor]):
    """Replay the recorded random draws of one step, in call order."""
    draws = iter(sorted((k, v) for k, v in step.items() if k.startswith("rng")))

    def next_draw(kind):
        def replay(*args, **kwargs):
            name, value = next(draws)
            assert name.endswith(kind), f"drew {kind}; expected {name}"
            return value

        return replay

    return patch.multiple(
        "tats.models.codebook.torch",
        randperm=next_draw("randperm"),
        randn_like=next_draw("randn_like"),
    )


@pytest.mark.parametrize("name", ["norestart", "restart", "restart_tile", "init"])
def test_three_training_steps_and_an_evaluation_match(reference, parity, name):
    data = reference.tensors(f"codebook/{name}.safetensors")
    n_codes, width = data["init/embeddings"].shape
    codebook = Codebook(
        n_codes=n_codes,
        embedding_dim=width,
        random_restart=name != "norestart",
        restart_threshold=float(data["restart_thres"]),
    )
    codebook.load_state_dict({k: data[f"init/{k}"] for k in ("N", "embeddings", "z_avg")})
    if name == "init":  # the published code keeps a flag; ours asks whether N was ever counted
        codebook.N.zero_()
    for number in range(3):
        step = {k.split("/", 1)[1]: v for k, v in data.items() if k.startswith(f"step{number}/")}
        z = step["z"].clone().requires_grad_()
        with recorded_draws(step):
            out = codebook(z)
        (out.commitment_loss + (out.embeddings**2).mean()).backward()
        parity.exact("codebook codes", out.codes, step["encodings"])
        parity.activations("codebook embeddings", out.embeddings, step["embeddings_out"])
        parity.activations("codebook gradient", z.grad, step["grad_z"])
        parity.close("codebook losses", out.commitment_loss, step["commitment_loss"], rtol=1e-5)
        parity.close("codebook losses", out.perplexity, step["perplexity"], rtol=1e-5)
        for buffer in ("N", "embeddings", "z_avg"):
            got, want = getattr(codebook, buffer), step[f"after/{buffer}"]
            parity.activations("codebook buffers after a step", got, want)
    codebook.eval()
    out = codebook(data["step2/z"])
    parity.exact("codebook codes", out.codes, data["eval/encodings"])
    parity.activations("codebook embeddings", out.embeddings, data["eval/embeddings_out"])
    parity.close("codebook losses", out.perplexity, data["eval/perplexity"], rtol=1e-5)
