"""The renderer of `solids`: geometry, shadows, determinism."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genbench_solids.captions import COLOURS, SHAPES, parse
from genbench_solids.render import project, render
from genbench_solids.scenes import Scenes, lay_out
from genbench_solids.scorers import as_caption
from genbench_solids.shapes import BOUNDS, HITS, NORMALS


def scene(caption: str, seed: int = 0) -> Scenes:
    attributes = parse(caption)
    assert attributes is not None
    return lay_out(torch.tensor([attributes.row()]), torch.Generator().manual_seed(seed))


def middle(scenes: Scenes, slot: int) -> Tensor:
    """Pixel (x, y) of the solid's middle."""
    point = scenes.base[:, slot].clone()
    point[:, 2] += torch.tensor([BOUNDS[s][0] for s in scenes.shape[:, slot].tolist()]) * scenes.scale[:, slot]
    return project(scenes, point)[0]


def hue_distance(pixel: Tensor, colour: tuple[float, float, float]) -> float:
    """Sine of the angle between two colours."""
    a, b = pixel / pixel.norm(), torch.tensor(colour) / torch.tensor(colour).norm()
    return (1 - (a @ b).clamp(max=1).square()).sqrt().item()


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES[:4])  # a torus has a hole in its middle
def test_colour_at_the_projected_middle(colour: str, shape: str) -> None:
    scenes = scene(f"a {colour} {shape}".replace("a orange", "an orange"))
    x, y = middle(scenes, 0).round().int().tolist()
    pixel = render(scenes).images[0, :, y, x]
    nearest = min(COLOURS, key=lambda name: hue_distance(pixel, COLOURS[name]))
    assert nearest == colour


@pytest.mark.parametrize("seed", range(5))
def test_left_is_left_and_top_is_above(seed: int) -> None:
    beside = scene("a red cube left of a blue sphere", seed)
    assert middle(beside, 0)[0] < middle(beside, 1)[0] - 8
    stack = scene("a red cube on top of a blue sphere", seed)
    assert middle(stack, 0)[1] < middle(stack, 1)[1] - 8
    row = scene("a red cube, a blue sphere and a green cone", seed)
    assert middle(row, 0)[0] < middle(row, 1)[0] < middle(row, 2)[0]


def test_sizes_order() -> None:
    areas = []
    for size in ("small ", "", "large "):
        picture = render(scene(f"a {size}red sphere")).images[0]
        areas.append((picture[0] - picture[1] > 0.2).float().mean().item())
    assert areas[0] < 0.6 * areas[1] < areas[1] < 0.7 * areas[2]


def test_the_light_is_fixed_in_the_world() -> None:
    front, back = (render(scene(f"a red sphere, {view}")).images[0] for view in ("from the front", "from behind"))
    x, y = middle(scene("a red sphere"), 0).round().int().tolist()
    assert front[0, y, x] > back[0, y, x] + 0.2


def test_a_solid_casts_a_shadow_on_the_floor() -> None:
    scenes = scene("a red sphere")
    lit = render(scenes).images
    empty = render(replace(scenes, scale=torch.zeros_like(scenes.scale))).images
    grey = (lit.amax(1) - lit.amin(1)) < 0.1
    assert ((empty - lit).mean(1)[grey] > 0.1).sum() > 30
    assert (empty.amax((2, 3)) - empty.amin((2, 3))).max() < 0.2


def test_the_same_seed_gives_the_same_picture() -> None:
    pictures = [render(scene("three green cones", seed)).images for seed in (1, 1, 2)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert pictures[0].shape == (1, 3, 64, 64) and pictures[0].min() >= 0 and pictures[0].max() <= 1


def test_a_picture_does_not_depend_on_its_batch() -> None:
    rows = torch.tensor(
        [as_caption(c).row() for c in ("a red torus", "two blue cubes", "a pink cone on top of a red cube")]
    )
    scenes = lay_out(rows, torch.Generator().manual_seed(0))
    alone = Scenes(**{name: value[1:2] for name, value in vars(scenes).items()})
    assert torch.allclose(render(scenes).images[1:2], render(alone).images, atol=1e-5)


def test_hidden_and_cropped_solids_are_reported() -> None:
    scenes = scene("a red cube left of a blue sphere")
    clear = render(scenes)
    assert clear.visible.min() > 0.9 and not clear.cropped.any()
    behind = scenes.base.clone()
    behind[:, 1] = behind[:, 0] + torch.tensor((0.0, 2.5, 0.0))
    assert render(replace(scenes, base=behind)).visible[0, 1] < 0.7
    assert render(replace(scenes, half_frame=scenes.half_frame / 2)).cropped.all()


@pytest.mark.parametrize("s", range(len(SHAPES)))
def test_normals_are_the_surface_s(s: int) -> None:
    """Two rays a little apart meet the surface at points whose difference is at right angles to the normal."""
    generator = torch.Generator().manual_seed(s)
    o = torch.randn(3, 400, generator=generator) * 0.3 + torch.tensor((0.0, -6.0, 3.0))[:, None]
    d = torch.tensor((0.0, 6.0, -2.2))[:, None] + 0.4 * torch.randn(3, 400, generator=generator)
    d = d / d.norm(dim=0)
    t0, t1 = HITS[s](o, d), HITS[s](o, d + torch.tensor((1e-3, 0.0, 1e-3))[:, None])
    met = t0.isfinite() & t1.isfinite()
    p0 = (o + t0 * d)[:, met]
    p1 = (o + t1 * (d + torch.tensor((1e-3, 0.0, 1e-3))[:, None]))[:, met]
    n = NORMALS[s](p0)
    n = n / n.norm(dim=0)
    edge = (p1 - p0) / (p1 - p0).norm(dim=0)
    assert met.sum() > 40
    assert (n * edge).sum(0).abs().median() < 0.1
    assert ((n * d[:, met]).sum(0) < 0).float().mean() > 0.97
