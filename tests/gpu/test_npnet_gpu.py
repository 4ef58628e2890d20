"""Golden noise on a GPU is the golden noise of the CPU: the decomposition stays there, the rest is float32."""

from __future__ import annotations

import pytest
import torch

from genbench import generate
from genbench_npnet import weights

pytestmark = pytest.mark.gpu


def test_the_network_gives_the_same_noise() -> None:
    network = weights.load(weights.SHIPPED).network
    z = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    e = torch.randn(4, 24, 128, generator=torch.Generator().manual_seed(1))
    here = network(z, e)
    with torch.autocast("cuda", torch.bfloat16):
        there = network.to("cuda")(z.cuda(), e.cuda()).cpu()
    assert (here - there).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pictures_through_golden_noise(dtype: str) -> None:
    plain, golden, neutral = (
        generate(prompt="a red cube", device="cuda", dtype=dtype, plugin="npnet", options={"npnet": {"strength": s}})[0]
        for s in (0.0, 1.0, 0.0)
    )
    assert torch.equal(plain.latents, neutral.latents) and not torch.equal(plain.latents, golden.latents)
    assert torch.isfinite(golden.latents).all()
