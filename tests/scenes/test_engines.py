"""Which engine answers, what it says when it cannot, and that engines agree."""

from __future__ import annotations

import inspect
import sys
from importlib.util import find_spec

import pytest
import torch

from genbench.errors import MissingDependency, UsageError
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import engine
from genbench.scenes.tiles import torch_engine
from tests.scenes.clouds import cloud, off, seen, views
from tests.scenes.dense import dense_engine

numba_missing = "numba is an extra"


def test_the_default_without_a_gpu_is_torch() -> None:
    assert engine() is engine("torch") is torch_engine


def test_names_that_are_none() -> None:
    with pytest.raises(UsageError, match="engine=nunba is none; did you mean 'numba'"):
        engine("nunba")


def test_a_gpu_engine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="engine=gsplat draws on a CUDA device, not on cpu"):
        engine("gsplat")
    with pytest.raises(UsageError, match="engine=gsplat draws on a CUDA device"):
        engine("auto", "cuda")
    with pytest.raises(UsageError, match="engine=numba draws on the processor"):
        engine("numba", "cuda")


@pytest.mark.parametrize("name", ["numba", "gsplat"])
def test_a_package_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in ("genbench.scenes.kernels", "genbench.scenes.cuda"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=f"engine={name} needs {name}; install it: pip install"):
        engine(name, "cuda" if name == "gsplat" else "cpu")


def test_projection_without_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(MissingDependency, match="scenes need gsplat; install it"):
        torch_engine(cloud(3), views(1), torch.zeros(3))


def test_what_gsplat_is_asked_on_a_gpu() -> None:
    """Its rasterizer needs CUDA; here another answers in its shapes, for arguments that its signature takes."""
    gsplat = pytest.importorskip("gsplat")
    from genbench.scenes.cuda import _Gsplat

    gaussians, cameras = cloud(50, 2), views(2)
    drawn = torch_engine(gaussians, cameras, torch.zeros(3))
    asked: dict[str, object] = {}

    def rasterization(*given: object, **named: object) -> tuple[torch.Tensor, torch.Tensor, dict[str, object]]:
        asked.update(inspect.signature(gsplat.rasterization).bind(*given, **named).arguments)
        image = torch.cat([drawn.rgb, drawn.depth], 1).permute(0, 2, 3, 1)
        return image, drawn.alpha.permute(0, 2, 3, 1), {"means2d": drawn.means2d, "radii": drawn.radii}

    ours = _Gsplat(rasterization)(gaussians, cameras, torch.tensor([0.2, 0.5, 0.9]))
    assert torch.allclose(ours.rgb, torch_engine(gaussians, cameras, torch.tensor([0.2, 0.5, 0.9])).rgb, atol=1e-6)
    assert torch.equal(ours.depth, drawn.depth)
    assert torch.equal(asked["scales"], gaussians.scales.exp())  # type: ignore[arg-type]
    assert asked["colors"].shape == (50, 9, 3) and asked["sh_degree"] == 2  # type: ignore[attr-defined]
    assert (asked["width"], asked["height"], asked["packed"], asked["render_mode"]) == (40, 28, False, "RGB+ED")


@pytest.mark.parametrize("size", [0.02, 0.08, 0.6])
@pytest.mark.parametrize("count", [1, 60, 2000])
def test_numba_agrees(count: int, size: float) -> None:
    pytest.importorskip("numba", reason=numba_missing)
    gaussians, cameras = cloud(count, 2, size), views(3)
    ours, own = seen(engine("numba"), gaussians, cameras)
    exact, theirs = seen(torch_engine, gaussians.to("cpu", torch.float64), cameras)
    for name in ("rgb", "alpha", "depth"):
        assert (getattr(ours, name) - getattr(exact, name)).abs().max() < 1e-3, name
    assert max(off({name: value.double() for name, value in own.items()}, theirs).values()) < 2e-3


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason=numba_missing)
    gaussians, cameras = cloud(500), views(2)
    alone, own = seen(engine("numba"), gaussians, cameras)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared, theirs = seen(engine("numba"), gaussians, cameras)
    assert torch.equal(alone.rgb, shared.rgb)
    assert torch.equal(own["means2d"], theirs["means2d"])


def test_numba_draws_what_nobody_sees() -> None:
    pytest.importorskip("numba", reason=numba_missing)
    far = cloud(5)
    far = Gaussians.of(far.parameters() | {"means": far.means + torch.tensor([0.0, 0.0, 1e3])})
    drawn, gradients = seen(engine("numba"), Gaussians.of(far.parameters() | {"means": -far.means}), views(1))
    assert not drawn.alpha.any()
    assert all(not value.any() for value in gradients.values())


def test_exponential() -> None:
    pytest.importorskip("numba", reason=numba_missing)
    import numpy as np

    from genbench.scenes.kernels import _exp

    x = np.linspace(-8, 0, 2001, dtype=np.float32)
    assert max(abs(_exp(value) / np.exp(np.float64(value)) - 1) for value in x) < 3e-6


def test_timing_names_every_engine_that_can_run() -> None:
    from genbench.scenes.timing import table

    head, line = table("cpu", ((16, 30),))
    assert head.split()[2:] == [name for name in ("torch", "numba") if name == "torch" or find_spec("numba")]
    assert line.split()[:2] == ["16px", "30"] and all(float(word) > 0 for word in line.split()[2:])


@pytest.mark.parametrize("name", ["torch", "numba"])
@pytest.mark.parametrize("broken", ["means", "quats", "scales", "opacities"])
def test_what_is_no_number_is_not_drawn(broken: str, name: str) -> None:
    if name == "numba":
        pytest.importorskip("numba", reason=numba_missing)
    gaussians = cloud(20)
    gaussians.parameters()[broken][3] = float("nan")
    others = torch.arange(20) != 3
    ours = engine(name)(gaussians, views(1), torch.ones(3)).rgb
    assert torch.allclose(ours, engine(name)(gaussians.rows(others), views(1), torch.ones(3)).rgb, atol=1e-6)


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_needles(name: str) -> None:
    """As wide as the picture and thinner than a pixel: as precise as the dense sum in single precision."""
    if name == "numba":
        pytest.importorskip("numba", reason=numba_missing)
    gaussians = cloud(60)
    gaussians.scales.copy_(torch.tensor([2.0, 1e-3, 1e-3]).log().expand(60, 3))
    ours, own = seen(engine(name), gaussians, views(2))
    plain, theirs = seen(dense_engine, gaussians, views(2))
    assert (ours.rgb - plain.rgb).abs().max() < 1e-3
    assert max(off(own, theirs).values()) < 5e-3
