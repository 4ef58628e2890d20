"""Integers as they are executed, against the same network in floating point that stands for them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genbench import instructions
from genbench.backbones import adapt
from genbench.backbones.caches import sharing_copy
from genbench.errors import MissingDependency, UsageError
from genbench.kinds import Ledger
from genbench_ptq4dm import executed, integer
from genbench_ptq4dm.executed import Executed, kinds, run_by_openvino
from genbench_ptq4dm.layers import Quantized, QuantizedConv2d, QuantizedLinear, float_layers, quantized_layers
from genbench_ptq4dm.network import quantized
from genbench_ptq4dm.plugin import reduce_weights, run_by
from genbench_ptq4dm.quantizer import Grid, Rounded
from tests.tiny import tiny

PER_LAYER = 2e-5
"""Relative error of one executed layer: float32 rounding, for products of integers are exact."""
needs_openvino = pytest.mark.skipif(not executed.installed(), reason="needs openvino")

LAYERS: tuple[tuple[nn.Module, tuple[int, ...]], ...] = (
    (nn.Linear(24, 40), (3, 24)),
    (nn.Linear(24, 10, bias=False), (2, 5, 24)),
    (nn.Conv2d(8, 12, 3, padding=1), (2, 8, 9, 7)),
    (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 8, 8)),
    (nn.Conv2d(4, 16, 2, stride=2), (3, 4, 8, 8)),
    (nn.Conv2d(8, 5, 1, bias=False), (2, 8, 6, 6)),
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded_of(layer: Any, x: Tensor, bits: int = 8) -> Rounded:
    weight = layer.weight.detach()
    return Rounded.of(weight, weight.abs().flatten(1).amax(1), bits, Grid.over(float(x.min()), float(x.max())))


def layer_of(layer: Any, rounded: Rounded) -> Quantized:
    layer = copy.deepcopy(layer).requires_grad_(False)
    return QuantizedLinear(layer, rounded) if isinstance(layer, nn.Linear) else QuantizedConv2d(layer, rounded)


def off(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


class Single(nn.Module):
    """A network of one layer, called as diffusers' are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.layer(x),)


# --- one layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_the_reference_is_the_formula(layer: Any, shape: tuple[int, ...]) -> None:
    x = noise(*shape, seed=1)
    rounded = rounded_of(layer, x)
    grid = rounded.grid
    assert grid is not None
    integers = (torch.round(x * (1 / grid.scale) + grid.zero).clamp(0, 255) - grid.zero).double()
    steps = rounded.scale.double().reshape(-1, *[1] * (rounded.weight.ndim - 1))
    weight = steps * rounded.weight.double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    if isinstance(layer, nn.Linear):
        wanted = F.linear(grid.scale * integers, weight, bias)
    else:
        wanted = F.conv2d(grid.scale * integers, weight, bias, layer.stride, layer.padding)
    assert off(layer_of(layer, rounded)(x).double(), wanted) < 1e-6


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
@pytest.mark.parametrize("kernel", [integer.OneDnn, integer.Patches], ids=lambda kind: kind.__name__)
def test_kernels_compute_the_reference(layer: Any, shape: tuple[int, ...], kernel: Any) -> None:
    x = noise(*shape, seed=1) + 0.7  # not symmetric: zero points matter, also outside the picture
    made = layer_of(layer, rounded_of(layer, x))
    if instructions.int8_saturates():
        reduce_weights(Single(made))
    wanted = made(x)
    made.kernel = kernel(made)
    assert off(made(x), wanted) < PER_LAYER and made(x).shape == wanted.shape
    assert made(x.bfloat16()).dtype == torch.bfloat16


@needs_openvino
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_openvino_computes_the_reference(layer: Any, shape: tuple[int, ...]) -> None:
    x = noise(*shape, seed=1) + 0.7
    network = Single(layer_of(layer, rounded_of(layer, x))).eval()
    if instructions.int8_saturates():
        reduce_weights(network)
    wanted = network(x)[0]
    run_by_openvino(network)
    made = network(x, return_dict=False)[0]
    assert off(made, wanted) < PER_LAYER
    program: Any = next(iter(network.forward.compiled.values()))  # type: ignore[attr-defined]
    assert kinds(program) == {"I8": 1}  # it was executed in integers


SATURATING = """
import torch
from torch import nn
from genbench import instructions
from genbench_ptq4dm.integer import OneDnn
from genbench_ptq4dm.layers import QuantizedLinear
from genbench_ptq4dm.quantizer import Grid, Rounded
grid, weight = Grid.over(0.0, 2.55), torch.full((8, 256), 127, dtype=torch.int8)
full = Rounded(weight, torch.full((8,), 0.01), 8, grid)
for rounded in (full, full.reduced()):
    layer = QuantizedLinear(nn.Linear(256, 8, bias=False).requires_grad_(False), rounded)
    x = torch.full((4, 256), 2.55)
    wanted = layer(x)
    layer.kernel = OneDnn(layer)
    print(float((layer(x) - wanted).norm() / wanted.norm()), instructions.int8_saturates())
"""


@pytest.mark.skipif(instructions.flags() is None or "avx2" not in (instructions.flags() or ()), reason="needs AVX2")
@pytest.mark.timeout(900)
def test_the_largest_integers_overflow_without_vnni_and_not_with_a_bit_less() -> None:
    """255 * 127 twice is more than 16 bits hold: half of the sum is lost. What the doctor says is what happens."""
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    told = subprocess.run([sys.executable, "-c", SATURATING], env=env, capture_output=True, text=True, check=True)
    (full, saturates), (less, _) = (line.split() for line in told.stdout.splitlines())
    assert saturates == "True" and float(full) > 0.3 and float(less) < 0.01


@pytest.mark.skipif(instructions.int8_saturates(), reason="needs VNNI or AMX")
def test_the_largest_integers_do_not_overflow_with_vnni(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SATURATING, {})
    (full, saturates), _ = (line.split() for line in capsys.readouterr().out.splitlines())
    assert saturates == "False" and float(full) < 1e-5


def test_what_is_not_a_plain_layer_is_refused() -> None:
    x = noise(1, 4, 6, 6)
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    made = layer_of(conv, rounded_of(conv, x))
    made.kernel = integer.Patches(made)
    with pytest.raises(UsageError, match="groups or dilation has no int8 kernel"):
        made(x)
    made.kernel = integer.OneDnn(made)
    assert made(x).shape == x.shape  # processors have one


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_integers_pass_no_gradient_and_the_reference_does(engine: Any) -> None:
    x = noise(2, 24)
    network = Single(layer_of(nn.Linear(24, 4), rounded_of(nn.Linear(24, 4), x)))
    leaf = x.clone().requires_grad_()
    network(leaf)[0].sum().backward()
    assert leaf.grad is not None and float(leaf.grad.abs().max()) > 0
    run_by(network, engine)
    with pytest.raises(UsageError, match="integers pass no gradient; use ptq4dm.engine=simulate"):
        network(leaf, return_dict=False)


# --- whole networks ---------------------------------------------------------------------------------------------------

FAMILIES = (
    "sd", "sd_lcm", "sdxl", "pixart_alpha", "pixart_sigma", "hunyuan", "sd3", "flux", "flux_schnell", "ddpm",
    "class_conditional",
)  # fmt: skip


def asked(model: Any, rows: int, size: int = 16) -> tuple[Any, Tensor, Any]:
    """A denoiser's question: (conditioning, x, level)."""
    classes = model.network_config.get("num_class_embeds")
    prompts = ["3"] * rows if classes else ["red cube"] * rows
    shape = model.latent_shape(size, size)
    schedule = model.sampler.schedule(4, model, shape)
    conditioning = model.encode_prompt(prompts, height=size, width=size)
    return conditioning, noise(rows, *shape).to(model.dtype), schedule.evaluations[1][0]


def answer(model: Any, network: nn.Module, rows: int, size: int = 16) -> Tensor:
    conditioning, x, level = asked(model, rows, size)
    with torch.no_grad():
        return model.replace(modules={model.network_name: network}).denoiser(conditioning, 2.0)(x, level).raw


def rounded_network(model: Any) -> dict[str, Rounded]:
    """Integers for every layer that is used, from one call of the model."""
    network, seen = sharing_copy(model.network), {}
    for name, layer in float_layers(network).items():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, inputs[0].detach()))
    answer(model, network, 3)
    layers = float_layers(network)
    return {name: rounded_of(layers[name], x) for name, x in seen.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any, dict[str, Rounded]]:
    model = adapt(tiny(request.param), Ledger())
    return request.param, model, rounded_network(model)


def made_of(model: Any, rounded: dict[str, Rounded], engine: Any = "simulate") -> nn.Module:
    network = quantized(model.network, rounded)
    if instructions.int8_saturates():
        reduce_weights(network)
    run_by(network, engine)
    return network


def test_every_family_is_quantized_whole(family: tuple[str, Any, dict[str, Rounded]]) -> None:
    name, model, rounded = family
    network = made_of(model, rounded)
    left = set(float_layers(network))
    assert len(rounded) > 8 and (not left or name == "hunyuan"), left  # its pooling multiplies weights by itself
    wanted, made = answer(model, model.network, 2), answer(model, network, 2)
    assert 1e-4 < off(made, wanted) < 0.35 and torch.isfinite(made).all()
    assert not quantized_layers(model.network)  # the model stays


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_every_family_is_executed_as_the_reference_says(
    family: tuple[str, Any, dict[str, Rounded]], engine: str
) -> None:
    """A last bit of float32 may turn a rounding, and what follows then differs by a step: less than rounding itself."""
    _, model, rounded = family
    reference, network = made_of(model, rounded), made_of(model, rounded, engine)
    for rows in (2, 3):  # compiled once, for any number of rows
        wanted = answer(model, reference, rows)
        rounding = off(wanted, answer(model, model.network, rows))
        made = answer(model, network, rows)
        assert off(made, wanted) <= max(0.02, rounding), rows
        assert off(made, answer(model, model.network, rows)) <= 1.5 * rounding + 0.01
    if engine == "openvino":
        forward: Any = network.forward
        assert len(forward.compiled) == 1
        counts = kinds(next(iter(forward.compiled.values())))
        integers = sum(count for kind, count in counts.items() if kind.lower() == "i8")
        assert integers >= 0.9 * len(rounded), (counts, len(rounded))


@needs_openvino
def test_another_size_is_compiled_by_itself() -> None:
    model: Any = adapt(tiny("sd"), Ledger())
    network = made_of(model, rounded_network(model), "openvino")
    for size in (16, 32):
        assert answer(model, network, 2, size).shape[-1] == size // 2
    assert len(network.forward.compiled) == 2  # type: ignore[attr-defined]


@needs_openvino
def test_copies_are_traced_for_themselves() -> None:
    """A view with a LoRA copies the network's modules and shares its weights."""
    model: Any = adapt(tiny("sd"), Ledger())
    network = made_of(model, rounded_network(model), "openvino")
    first = answer(model, network, 2)
    copied = sharing_copy(network)
    layer = quantized_layers(copied)["conv_out"]
    layer.bias = nn.Parameter(layer.bias + 1, requires_grad=False)
    assert isinstance(copied.forward, Executed) and copied.forward.network is copied
    assert off(answer(model, copied, 2), first) > 0.1
    assert torch.equal(answer(model, network, 2), first)


def test_kernels_of_copies_belong_to_the_copy() -> None:
    x = noise(2, 24)
    network = Single(layer_of(nn.Linear(24, 4), rounded_of(nn.Linear(24, 4), x)))
    run_by(network, "torch")
    copied: Any = sharing_copy(network)
    copied.layer.bias = nn.Parameter(copied.layer.bias + 1, requires_grad=False)
    assert torch.allclose(copied(x)[0], network(x)[0] + 1, atol=1e-5)


@needs_openvino
def test_half_precision_is_refused_by_openvino() -> None:
    model: Any = adapt(tiny("ddpm").to(dtype=torch.bfloat16), Ledger())
    network = made_of(model, rounded_network(model), "openvino")
    with pytest.raises(UsageError, match="give dtype=float32"):
        answer(model, network, 1)
    assert answer(model, made_of(model, rounded_network(model), "torch"), 1).dtype == torch.bfloat16


def test_an_absent_engine_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "installed", lambda: False)
    with pytest.raises(MissingDependency, match=r"pip install 'genbench\[quant\]'"):
        executed.check_installed()
