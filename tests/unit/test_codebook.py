"""The codebook: lookup, its by-hand update, restarts, and agreement across processes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode

from tats.models import codebook as codebook_module
from tats.models.codebook import Codebook


def grid(rows: list[list[float]]) -> torch.Tensor:
    """Rows as features (1, D, n, 1, 1)."""
    return torch.tensor(rows).t()[None, :, :, None, None]


def codebook_at(embeddings: list[list[float]], counts: list[float], **kwargs) -> Codebook:
    codebook = Codebook(n_codes=len(counts), embedding_dim=len(embeddings[0]), **kwargs)
    codebook.embeddings.copy_(torch.tensor(embeddings))
    codebook.N.copy_(torch.tensor(counts))
    codebook.z_avg.copy_(torch.tensor(embeddings) * torch.tensor(counts)[:, None])
    return codebook


def all_distances(codebook: Codebook, rows: torch.Tensor) -> torch.Tensor:
    norms = codebook.embeddings.square().sum(dim=1)
    return torch.addmm(norms, rows, codebook.embeddings.t(), alpha=-2)


@pytest.mark.parametrize("n_rows", [1, 7, 8, 9, 50])
def test_codes_are_those_of_all_distances_at_once(monkeypatch, n_rows):
    monkeypatch.setattr(codebook_module, "DISTANCES_PER_CHUNK", 8 * 40)
    codebook = Codebook(n_codes=40, embedding_dim=6)
    rows = torch.randn(n_rows, 6)
    assert torch.equal(codebook.nearest(rows), all_distances(codebook, rows).argmin(dim=1))


def test_of_equally_near_codes_the_lowest_is_taken(monkeypatch):
    monkeypatch.setattr(codebook_module, "DISTANCES_PER_CHUNK", 4 * 12)
    codebook = Codebook(n_codes=12, embedding_dim=3)
    codebook.embeddings[6:] = codebook.embeddings[:6]
    rows = codebook.embeddings[torch.arange(24) % 12]
    assert codebook.nearest(rows).tolist() == [i % 6 for i in range(24)]


def test_distances_are_never_whole_in_memory(monkeypatch):
    monkeypatch.setattr(codebook_module, "DISTANCES_PER_CHUNK", 4 * 12)
    codebook, largest = Codebook(n_codes=12, embedding_dim=3), 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    rows = torch.randn(64, 3)
    with Watch():
        codebook.nearest(rows)
    assert 4 * 12 <= largest <= 64 * 3  # the rows are the largest there is; 64 * 12 would be all


def test_an_update_matches_one_done_by_hand():
    codebook = codebook_at([[0.0, 0.0], [1.0, 1.0]], [10.0, 20.0], random_restart=False)
    z = grid([[0.1, 0.0], [0.3, 0.2], [0.9, 1.1]])  # nearest: code 0, 0, 1
    out = codebook(z)
    assert out.codes.flatten().tolist() == [0, 0, 1]
    # N = .99·N + .01·n;  z_avg = .99·z_avg + .01·Σz;  embedding = z_avg / N (smoothing ~1e-7)
    torch.testing.assert_close(codebook.N, torch.tensor([9.92, 19.81]))
    sums = torch.tensor([[0.004, 0.002], [19.8 + 0.009, 19.8 + 0.011]])
    torch.testing.assert_close(codebook.z_avg, sums)
    want = sums / torch.tensor([[9.92], [19.81]])
    torch.testing.assert_close(codebook.embeddings, want, rtol=1e-5, atol=1e-6)
    # Outputs come from the codebook before the update.
    torch.testing.assert_close(out.embeddings, grid([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    squares = [0.01, 0.0, 0.09, 0.04, 0.01, 0.01]
    torch.testing.assert_close(out.commitment_loss, torch.tensor(0.25 * sum(squares) / 6))
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    torch.testing.assert_close(out.perplexity, torch.tensor(math.exp(entropy)))


def test_gradients_pass_straight_through():
    codebook = codebook_at([[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]).eval()
    z = grid([[0.1, 0.0], [0.9, 1.1]]).requires_grad_()
    (codebook(z).embeddings * torch.tensor([2.0, 3.0])[None, :, None, None, None]).sum().backward()
    torch.testing.assert_close(z.grad, grid([[2.0, 3.0], [2.0, 3.0]]))


def test_rarely_used_codes_restart_at_rows_of_the_batch():
    z = grid([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    for restart in (True, False):
        codebook = codebook_at(
            [[5.0, 5.0], [-9.0, -9.0]], [10.0, 0.5], random_restart=restart, restart_threshold=1.0
        )
        codebook(z)
        restarted = bool((codebook.embeddings[1] == z[0, :, :, 0, 0].t()).all(dim=1).any())
        assert restarted is restart
        assert codebook.embeddings[0, 0] == pytest.approx(5.0, abs=0.1)  # in use: stays


def test_the_first_training_batch_initialises_and_a_loaded_codebook_does_not():
    z = torch.randn(1, 3, 4, 4, 4)
    fresh = Codebook(n_codes=8, embedding_dim=3, random_restart=False)
    fresh.eval()
    before = fresh.embeddings.clone()
    fresh(z)
    torch.testing.assert_close(fresh.embeddings, before)  # evaluation initialises nothing
    fresh.train()
    used = fresh.embeddings.data_ptr()
    fresh(z)
    assert fresh.embeddings.data_ptr() == used
    assert not torch.allclose(fresh.embeddings, before)
    loaded = Codebook(n_codes=8, embedding_dim=3, random_restart=False)
    loaded.load_state_dict(fresh.state_dict())
    loaded(z)
    assert torch.allclose(loaded.embeddings, fresh.embeddings, atol=0.1)
    assert (loaded.N < fresh.N + 1).all()


def test_fewer_rows_than_codes_still_give_distinct_codes():
    codebook = Codebook(n_codes=16, embedding_dim=2)
    codebook(torch.randn(1, 2, 1, 2, 2))  # 4 rows
    assert len(codebook.embeddings.unique(dim=0)) == 16


def test_half_precision_features_are_quantized_in_single_precision():
    codebook = codebook_at([[0.0, 0.0], [1.0, 1.0]], [10.0, 20.0], random_restart=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = codebook(grid([[0.1, 0.0], [0.9, 1.1]]).bfloat16())
    assert out.embeddings.dtype == codebook.N.dtype == torch.float32


def _train_on_a_share(rank: int, folder: str, z: torch.Tensor, state: dict) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    codebook = Codebook(n_codes=6, embedding_dim=3, random_restart=False)
    codebook.load_state_dict(state)
    out = codebook(z.chunk(2)[rank])
    torch.save({**codebook.state_dict(), "perplexity": out.perplexity}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_learn_what_one_learns_from_the_joint_batch(tmp_path):
    z = torch.randn(4, 3, 2, 3, 3)
    alone = Codebook(n_codes=6, embedding_dim=3, random_restart=False)
    alone.N.fill_(2.0)
    state = {k: v.clone() for k, v in alone.state_dict().items()}
    out = alone(z)
    mp.spawn(_train_on_a_share, args=(str(tmp_path), z, state), nprocs=2)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        for name, want in alone.state_dict().items():
            torch.testing.assert_close(shared[name], want)
        torch.testing.assert_close(shared["perplexity"], out.perplexity)
