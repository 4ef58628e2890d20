"""Volume rendering against closed forms, and a radiance field as a scene that is optimised."""

from __future__ import annotations

import sys
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench.errors import MissingDependency, SceneError
from genbench.scenes.cameras import Cameras, orbit
from genbench.scenes.field import FILE, RadianceField, read_field
from genbench.scenes.rays import Rays, march, nerfacc, occupied, rays_of

COLOUR = torch.tensor([0.2, 0.6, 0.9])


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full(radius: float = 0.5, cells: int = 8) -> object:
    grid = nerfacc().OccGridEstimator([-radius] * 3 + [radius] * 3, cells)
    grid.binaries.fill_(True)
    return grid


def even(density: float):
    return lambda places: (torch.full_like(places[:, 0], density), COLOUR.expand(len(places), 3))


def along_z(*starts: tuple[float, float]) -> Rays:
    origins = torch.tensor([[x, y, -2.0] for x, y in starts])
    return Rays(origins, torch.tensor([[0.0, 0.0, 1.0]]).repeat(len(starts), 1), torch.ones(len(starts)))


@pytest.mark.parametrize("density", [0.0, 0.7, 5.0])
def test_an_even_slab(density: float) -> None:
    colour, alpha, depth = march(along_z((0.0, 0.0), (0.3, -0.2), (0.9, 0.0)), even(density), full(), 200, draw())
    opacity = 1 - exp(-density)
    assert alpha[:, 0].tolist() == pytest.approx([opacity, opacity, 0], abs=1e-5)
    assert torch.allclose(colour[0], opacity * COLOUR, atol=1e-5)
    assert not colour[2].any() and not depth[2].any()
    if density:
        inside = 1 / density - exp(-density) / opacity  # mean of an exponential that ends at 1
        assert float(depth[0]) == pytest.approx(1.5 + inside, abs=0.005)


def test_empty_cells_are_left_out() -> None:
    grid = full()
    grid.binaries[0, :, :, :4] = False  # the half in front  # type: ignore[attr-defined]
    _, alpha, depth = march(along_z((0.0, 0.0)), even(2.0), grid, 400, draw())
    assert float(alpha) == pytest.approx(1 - exp(-1), abs=0.01)
    assert float(depth) > 2
    asked: list[Tensor] = []

    def medium(places: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(places)
        return even(2.0)(places)

    march(along_z((0.0, 0.0)), medium, grid, 400, draw())
    assert bool((asked[0][:, 2] >= 0).all())


def test_cells() -> None:
    grid = full(cells=2)
    grid.binaries[0, 1, 0, 1] = False  # type: ignore[attr-defined]
    places = torch.tensor([[0.2, -0.2, 0.2], [0.2, 0.2, 0.2], [-0.6, 0.0, 0.0], [0.4999, 0.4999, 0.4999]])
    assert occupied(places, grid).tolist() == [False, True, False, True]


def test_rays_go_through_pixels() -> None:
    cameras = orbit(torch.tensor([20.0, -5.0]), torch.tensor([30.0, 200.0]), 2.0, 40.0, 6, 4)
    rays = rays_of(cameras, "cpu")
    points = rays.origins + 1.7 * rays.directions
    for view in range(2):
        own = points.view(2, 24, 3)[view]
        seen = own @ cameras.viewmats[view, :3, :3].T + cameras.viewmats[view, :3, 3]
        pixels = seen @ cameras.Ks[view].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        grid = torch.stack(torch.meshgrid(torch.arange(6) + 0.5, torch.arange(4) + 0.5, indexing="xy"), -1)
        assert torch.allclose(pixels, grid.reshape(-1, 2), atol=1e-4)
        assert torch.allclose(seen[:, 2], 1.7 * rays.cosines.view(2, 24)[view], atol=1e-5)


# --- the field --------------------------------------------------------------------------------------------------------


def small() -> RadianceField:
    return RadianceField(draw(), samples=24, resolution=16, features=4, hidden=8, cells=16)


def looking(size: int = 20) -> Cameras:
    return orbit(10.0, torch.tensor([0.0, 90.0]), 2.5, 40.0, size, size)


def test_it_begins_as_a_ball() -> None:
    with torch.no_grad():
        drawn = small().render(looking(), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), draw())
    assert drawn.rgb.shape == (2, 3, 20, 20) and drawn.means2d is None
    assert float(drawn.alpha[0, 0, 10, 10]) > 0.8 and float(drawn.alpha[0, 0, 0, 0]) == 0
    assert drawn.rgb[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert 2.0 < float(drawn.depth[0, 0, 10, 10]) < 2.5
    assert float(drawn.depth[0, 0, 0, 0]) == 0


def test_every_parameter_learns() -> None:
    scene = small()
    assert set(scene.parameters()) == set(scene.rates)
    scene.render(looking(), torch.ones(3), draw()).rgb.square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in scene.parameters().values())


def fitted(scene: RadianceField, first: int, last: int, optimisers: dict[str, torch.optim.Adam]) -> float:
    """Steps towards a red square; the loss of the last."""
    target = torch.ones(2, 3, 20, 20)
    target[:, 1:, 6:14, 6:14] = 0.1
    loss = torch.zeros(())
    for step in range(first, last):
        drawn = scene.render(looking(), torch.ones(3), draw(step))
        loss = (drawn.rgb - target).square().mean()
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers.values():
            optimiser.step()
        scene.growth.after_step(step, scene.parameters(), dict(optimisers), drawn, draw(step))
    return float(loss.detach())


def adams(scene: RadianceField) -> dict[str, torch.optim.Adam]:
    return {name: torch.optim.Adam([value], lr=scene.rates[name]) for name, value in scene.parameters().items()}


def test_it_learns_a_picture() -> None:
    scene = small()
    optimisers = adams(scene)
    before = fitted(scene, 0, 1, optimisers)
    assert fitted(scene, 1, 60, optimisers) < 0.2 * before


def test_a_checkpoint_goes_on_in_the_same_bits() -> None:
    straight, continued = small(), small()
    optimisers = adams(straight)
    fitted(straight, 0, 17, optimisers)
    continued.restore(straight.state())
    theirs = adams(continued)
    for name, optimiser in theirs.items():
        optimiser.load_state_dict(optimisers[name].state_dict())
        for moments in optimiser.state.values():
            moments.update({key: value.clone() for key, value in moments.items()})
    torch.manual_seed(1)
    assert fitted(straight, 17, 36, optimisers) == fitted(continued, 17, 36, theirs)


def test_files(tmp_path: Path) -> None:
    scene = small()
    fitted(scene, 0, 20, adams(scene))
    assert scene.save(tmp_path) == tmp_path / FILE
    found = read_field(tmp_path / FILE)
    for name, value in scene.parameters().items():
        assert torch.equal(found.parameters()[name], value), name
    ours, theirs = (each.render(looking(), torch.ones(3), draw()).rgb for each in (scene, found))
    assert (ours - theirs).abs().mean() < 0.01  # its grid looks anew
    with torch.no_grad():
        scene.parameters()["planes"][0, 0, 0, 0] = float("nan")
    with pytest.raises(SceneError, match="the field's planes have numbers that are none"):
        scene.save(tmp_path)
    assert torch.equal(read_field(tmp_path / FILE).parameters()["planes"], found.parameters()["planes"])
    (tmp_path / "other").write_bytes(b"none")
    with pytest.raises(SceneError, match="other cannot be read"):
        read_field(tmp_path / "other")


def test_without_nerfacc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nerfacc", None)
    with pytest.raises(MissingDependency, match="radiance fields need nerfacc; install it"):
        small()
