"""Where Gaussians begin, and as a scene that is optimised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genbench.errors import SceneError
from genbench.scenes.ply import read_ply, write_ply
from genbench.scenes.splats import RATES, Splats
from genbench.scenes.starts import OPACITY, points, spacing, sphere, start_of
from genbench.scenes.tiles import torch_engine
from tests.scenes.clouds import cloud, views


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud_file(folder: Path, colours: bool, count: int = 3) -> str:
    kinds = ("uchar red", "uchar green", "uchar blue") if colours else ()
    names = ("float x", "float y", "float z", *kinds)
    head = [
        "ply",
        "format ascii 1.0",
        f"element vertex {count}",
        *(f"property {name}" for name in names),
        "end_header",
    ]
    rows = [f"{i} 0 {-i}" + (" 255 0 51" if colours else "") for i in range(count)]
    path = folder / "points.ply"
    path.write_text("\n".join([*head, *rows]) + "\n", encoding="ascii")
    return str(path)


def test_a_ball() -> None:
    ball = sphere(4000, 0.5, draw(), degree=1)
    away = ball.means.norm(dim=1)
    assert len(ball) == 4000 and ball.degree == 1
    assert float(away.max()) <= 0.5
    assert float((away < 0.25).float().mean()) == pytest.approx(1 / 8, abs=0.02)  # evenly in the volume
    assert torch.allclose(ball.opacities.sigmoid(), torch.tensor(OPACITY))
    assert torch.allclose(ball.colours, torch.tensor(0.5))
    assert torch.equal(ball.means, sphere(4000, 0.5, draw()).means)
    assert not torch.equal(ball.means, sphere(4000, 0.5, draw(1)).means)


def test_gaussians_are_as_wide_as_their_neighbours_are_far() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    assert torch.allclose(spacing(grid), torch.tensor(1.0), atol=1e-4)
    assert spacing(grid[:2]).tolist() == pytest.approx([1.0, 1.0])
    assert bool((spacing(torch.zeros(5, 3)) > 0).all())
    assert bool((spacing(torch.zeros(1, 3)) > 0).all())


def test_points_have_colours() -> None:
    colours = torch.tensor([[1.0, 0.0, 0.25]])
    assert torch.allclose(points(torch.zeros(1, 3), colours).colours, colours, atol=1e-6)


def test_a_file_of_points(tmp_path: Path) -> None:
    found = start_of(cloud_file(tmp_path, True), 9, 0.5, draw(), degree=2)
    assert found.means.tolist() == [[0, 0, 0], [1, 0, -1], [2, 0, -2]]
    assert torch.allclose(found.colours, torch.tensor([1.0, 0.0, 0.2]), atol=1e-6)
    assert found.degree == 2
    plain = start_of(cloud_file(tmp_path, False), 9, 0.5, draw())
    assert torch.allclose(plain.colours, torch.tensor(0.5))


def test_a_file_of_gaussians(tmp_path: Path) -> None:
    own = cloud(7, 1)
    write_ply(tmp_path / "own.ply", own)
    found = start_of(str(tmp_path / "own.ply"), 9, 0.5, draw())
    for name, value in own.parameters().items():
        assert torch.equal(found.parameters()[name], value)


def test_files_that_are_no_start(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="there is no such file; give sphere, or a .ply or .splat"):
        start_of(str(tmp_path / "none.ply"), 9, 0.5, draw())
    (tmp_path / "text.ply").write_text("hello")
    with pytest.raises(SceneError, match="text.ply"):
        start_of(str(tmp_path / "text.ply"), 9, 0.5, draw())
    with pytest.raises(SceneError, match="points.ply"):
        start_of(cloud_file(tmp_path, True, 0), 9, 0.5, draw())


def test_a_scene_of_gaussians(tmp_path: Path) -> None:
    start = cloud(20, 1)
    scene = Splats(start, torch_engine)
    assert set(scene.parameters()) == set(RATES)
    assert all(value.requires_grad and value.is_leaf for value in scene.parameters().values())
    drawn = scene.render(views(2), torch.ones(3), draw())
    assert drawn.rgb.requires_grad
    assert torch.equal(drawn.rgb, torch_engine(start, views(2), torch.ones(3)).rgb)
    saved = scene.save(tmp_path)
    assert saved.name == "scene.ply"
    assert torch.equal(read_ply(saved).means, start.means)


def test_its_state_is_its_own() -> None:
    scene, other = Splats(cloud(20), torch_engine), Splats(cloud(5), torch_engine)
    state = scene.state()
    with torch.no_grad():
        scene.parameters()["means"].zero_()
    other.restore(state)
    assert torch.equal(other.gaussians.means, cloud(20).means)
    assert other.parameters()["means"].requires_grad


def test_gaussians_that_cannot_be_drawn() -> None:
    with pytest.raises(SceneError, match="no Gaussian is left"):
        Splats(cloud(3).rows(torch.zeros(3, dtype=torch.bool)), torch_engine)
