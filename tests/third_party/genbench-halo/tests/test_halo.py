import torch
from genbench_halo.ring import ring
from genbench_halo.scorer import HaloScorer
from genbench_halo.step import Halo

from genbench.testing import contract_tests, toy_draw

test_halo_keeps_the_contract = contract_tests(Halo, "step")
test_scorer_keeps_the_contract = contract_tests(HaloScorer, "scorer")


def test_the_rim_is_white_at_full_strength() -> None:
    x = toy_draw(Halo(strength=1.0), prompts=["blue", "red"])
    rim = ring(*x.shape[-2:]).bool()
    assert torch.allclose(x[..., rim], torch.ones(()), atol=1e-5)
    assert x[..., ~rim].mean() < 0.5


def test_the_scorer_prefers_a_halo() -> None:
    picture = torch.full((2, 3, 16, 16), 0.3)
    picture[0, :, ring(16, 16).bool()] = 0.9
    scores = HaloScorer().score(images=picture, prompts=["", ""])
    assert torch.allclose(scores, torch.tensor([0.6, 0.0]), atol=1e-6)
