"""Gaussians that come and go: optimisers follow, chance follows the generator, checkpoints go on in the same bits."""

from __future__ import annotations

from copy import deepcopy
from math import comb, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench.errors import SceneError
from genbench.scenes.densification import Densification
from genbench.scenes.relocation import Relocation, relocated, wandering
from genbench.scenes.rendering import Growth
from genbench.scenes.splats import Splats
from genbench.scenes.tiles import torch_engine
from tests.scenes.clouds import cloud, views

WHITE = torch.ones(3)


def adams(scene: Splats) -> dict[str, torch.optim.Optimizer]:
    return {
        name: torch.optim.Adam([value], lr=scene.rates[name], eps=1e-15) for name, value in scene.parameters().items()
    }


def step(scene: Splats, optimisers: dict[str, Any], number: int, size: int = 24) -> None:
    """One step towards a grey picture."""
    rendered = scene.render(views(2, size, size), WHITE, torch.Generator())
    assert scene.growth is not None
    scene.growth.before_backward(rendered)
    (rendered.rgb - 0.3).square().mean().backward()
    for optimiser in optimisers.values():
        optimiser.step()
    draw = torch.Generator().manual_seed(number)
    scene.growth.after_step(number, scene.parameters(), optimisers, rendered, draw)
    for optimiser in optimisers.values():
        optimiser.zero_grad()


def follows(scene: Splats, optimisers: dict[str, Any]) -> bool:
    """Whether every optimiser moves the present tensor, with moments of its shape."""
    return all(
        optimisers[name].param_groups[0]["params"][0] is value
        and all(m.shape == value.shape for m in optimisers[name].state[value].values() if torch.is_tensor(m) and m.ndim)
        for name, value in scene.parameters().items()
    )


def dense(**options: Any) -> Densification:
    return Densification(**{"start": 0, "every": 4, "stop": 100, "reset_every": 0, "grow_grad2d": 1e-5, **options})


def test_gaussians_double_and_split() -> None:
    scene = Splats(cloud(80, 1), torch_engine, dense(grow_scale3d=0.08))
    optimisers, counts = adams(scene), []
    for number in range(9):
        step(scene, optimisers, number)
        counts.append(len(scene.gaussians))
        assert follows(scene, optimisers)
    assert counts[:4] == [80] * 4 and counts[4] > 80 and counts[8] > counts[4]


def test_opacities_are_reset() -> None:
    """gsplat 1.5.3 itself never does."""
    scene = Splats(cloud(40), torch_engine, dense(every=1000, reset_every=3))
    optimisers = adams(scene)
    for number in range(3):
        step(scene, optimisers, number)
    assert float(scene.gaussians.opacities.detach().sigmoid().max()) > 0.5
    step(scene, optimisers, 3)
    assert float(scene.gaussians.opacities.detach().sigmoid().max()) == pytest.approx(0.01, abs=1e-4)
    assert not optimisers["opacities"].state[scene.parameters()["opacities"]]["exp_avg"].any()


def test_there_is_a_most() -> None:
    scene = Splats(cloud(80), torch_engine, dense(most=80, prune_opa=0.2))
    optimisers = adams(scene)
    for number in range(5):
        step(scene, optimisers, number)
    assert len(scene.gaussians) < 80


def test_the_last_gaussian_is_not_pruned() -> None:
    scene = Splats(cloud(20), torch_engine, dense(prune_opa=0.9999))
    optimisers = adams(scene)
    with pytest.raises(SceneError, match="step 5 prunes the last Gaussian: all 20 have opacities below 0.9999"):
        for number in range(5):
            step(scene, optimisers, number)
    scene.gaussians.check()
    assert len(scene.gaussians) == 20


@pytest.mark.parametrize("kind", ["density", "chain"])
def test_a_checkpoint_goes_on_in_the_same_bits(kind: str) -> None:
    def scene() -> Splats:
        growth: Growth = dense() if kind == "density" else Relocation(start=0, every=3, noise=10.0, min_opacity=0.3)
        return Splats(cloud(60), torch_engine, growth)

    straight = scene()
    own = adams(straight)
    for number in range(6):
        step(straight, own, number)
    state = straight.state(), {name: deepcopy(optimiser.state_dict()) for name, optimiser in own.items()}
    torch.manual_seed(99)  # what else draws in between does not matter
    continued = scene()
    continued.restore(state[0])
    theirs = adams(continued)
    for name, optimiser in theirs.items():
        optimiser.load_state_dict(state[1][name])
    for number in range(6, 14):
        step(straight, own, number)
        step(continued, theirs, number)
    assert len(straight.gaussians) != 60
    for name, value in straight.parameters().items():
        assert torch.equal(value, continued.parameters()[name]), name


def test_global_chance_is_left_alone() -> None:
    scene = Splats(cloud(60), torch_engine, dense(grow_scale3d=0.001))
    optimisers = adams(scene)
    torch.manual_seed(5)
    expected = torch.randn(1, generator=torch.Generator().manual_seed(5))
    for number in range(5):
        step(scene, optimisers, number)
    assert len(scene.gaussians) > 60
    assert torch.equal(torch.randn(1), expected)


# --- relocation -------------------------------------------------------------------------------------------------------


def plainly(opacity: float, copies: int) -> tuple[float, float]:
    """gsplat's kernel, in double precision."""
    shared = 1 - (1 - opacity) ** (1 / copies)
    total = sum(
        comb(i - 1, k) * (-1) ** k / sqrt(k + 1) * shared ** (k + 1) for i in range(1, copies + 1) for k in range(i)
    )
    return shared, opacity / total


@pytest.mark.parametrize("copies", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("opacity", [0.01, 0.4, 0.95])
def test_relocation_is_the_kernels(opacity: float, copies: int) -> None:
    own, widths = relocated(torch.tensor([opacity]), torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([copies]))
    shared, factor = plainly(opacity, copies)
    assert float(own) == pytest.approx(shared, rel=1e-5)
    assert widths[0].tolist() == pytest.approx([factor, 2 * factor, 3 * factor], rel=1e-5)


def test_copies_look_as_one_did() -> None:
    """Equation 9 keeps the alpha in the centre, and alpha integrated along a line through it."""
    opacity, copies = 0.8, 4
    own, widths = relocated(torch.tensor([opacity]), torch.ones(1, 3), torch.tensor([copies]))
    x = torch.linspace(-8, 8, 4001)
    one = opacity * torch.exp(-(x**2) / 2)
    many = 1 - (1 - own * torch.exp(-(x**2) / (2 * widths[0, 0] ** 2))) ** copies
    assert float(many.max()) == pytest.approx(opacity, abs=1e-4)
    assert float(many.sum()) == pytest.approx(float(one.sum()), rel=1e-3)


def test_the_dead_move_and_some_are_added() -> None:
    start = cloud(100)
    start.opacities[:30] = -8.0
    scene = Splats(start, torch_engine, Relocation(start=0, every=1, noise=0.0, most=103))
    optimisers = adams(scene)
    step(scene, optimisers, 0)
    step(scene, optimisers, 1)
    assert len(scene.gaussians) == 103
    assert follows(scene, optimisers)
    assert float(scene.gaussians.opacities.detach().sigmoid().min()) >= 0.004
    alive = scene.gaussians.means.detach()[30:100]
    nearest = torch.cdist(scene.gaussians.means.detach()[:30], alive).min(1).values
    assert nearest.max() < 1e-3


def test_all_dead() -> None:
    start = cloud(10)
    start.opacities.fill_(-9.0)
    scene = Splats(start, torch_engine, Relocation(start=-1, every=1))
    with pytest.raises(SceneError, match="no Gaussian is left: all 10 have opacities of at most 0.005"):
        scene.growth.after_step(0, scene.parameters(), adams(scene), None, torch.Generator())  # type: ignore[union-attr, arg-type]


def test_only_the_nearly_transparent_wander() -> None:
    values: dict[str, Tensor] = cloud(2000, size=0.2).parameters()
    values["opacities"] = torch.tensor([-7.0, 3.0]).repeat(1000)
    steps = wandering(values, 1.0, torch.Generator().manual_seed(0))
    assert steps[1::2].abs().max() < 1e-6
    assert steps[::2].norm(dim=1).mean() > 1e-3
