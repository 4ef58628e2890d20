"""What renderers cost: `python -m genbench.scenes.timing` prints milliseconds of forward and backward.

One camera before a ball of Gaussians as wide as their nearest neighbours are far, in one thread; on a GPU, larger ones.
The least of several: seconds of the processor, or of the wall on a GPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from genbench.errors import GenbenchError
from genbench.scenes.cameras import Cameras, orbit
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import ENGINES, Engine, engine

SIZES = ((64, 1000), (64, 5000), (64, 20_000), (128, 1000), (128, 5000), (128, 20_000))
CUDA_SIZES = ((512, 10_000), (512, 100_000), (512, 1_000_000))
RADIUS, DISTANCE, FOVY_DEG = 0.5, 3.5, 31.5
TRIALS = 5


def ball(count: int, device: torch.device | str = "cpu") -> Gaussians:
    """Round Gaussians of opacity 0.1, evenly in a ball; their deviation is the mean distance to the nearest."""
    draw = torch.Generator().manual_seed(0)
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    return Gaussians(
        RADIUS * away * torch.rand(count, 1, generator=draw) ** (1 / 3),
        torch.randn(count, 4, generator=draw),
        torch.full((count, 3), 0.9 * RADIUS * count ** (-1 / 3)).log(),
        torch.full((count,), 0.1).logit(),
        torch.randn(count, 1, 3, generator=draw),
        torch.zeros(count, 0, 3),
    ).to(device)


def seconds(render: Engine, gaussians: Gaussians, cameras: Cameras) -> float:
    """The least time of a picture and the gradients of a loss on colour and alpha."""
    cuda = gaussians.means.is_cuda
    spent = [_once(render, gaussians, cameras, _wall if cuda else time.process_time) for _ in range(TRIALS + 1)]
    return min(spent[1:])


def _once(render: Engine, gaussians: Gaussians, cameras: Cameras, clock: Callable[[], float]) -> float:
    own: dict[str, Tensor] = {name: value.clone().requires_grad_() for name, value in gaussians.parameters().items()}
    began = clock()
    seen = render(Gaussians.of(own), cameras, torch.ones(3))
    torch.autograd.backward((seen.rgb - 0.3).square().mean() + seen.alpha.square().mean())
    return clock() - began


def _wall() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def table(device: str, sizes: tuple[tuple[int, int], ...]) -> list[str]:
    """Lines: pixels, Gaussians, milliseconds of every engine that draws on the device."""
    engines: dict[str, Engine] = {}
    for name in ENGINES[1:]:
        try:
            engines[name] = engine(name, device)
        except GenbenchError:
            continue
    lines = [f"{device:>8} {'Gaussians':>10} " + " ".join(f"{name:>8}" for name in engines)]
    for size, count in sizes:
        scene, cameras = ball(count, device), orbit(0.0, 0.0, DISTANCE, FOVY_DEG, size, size)
        spent = [1000 * seconds(render, scene, cameras) for render in engines.values()]
        lines.append(f"{size:>6}px {count:>10} " + " ".join(f"{value:8.1f}" for value in spent))
    return lines


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    lines = table("cpu", SIZES)
    if torch.cuda.is_available():
        lines += table("cuda", CUDA_SIZES)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
