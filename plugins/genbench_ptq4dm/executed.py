"""A whole network in integers by OpenVINO: traced once, and compiled for the processor.

OpenVINO is given our own integers, steps and zero points (as i8 constants and FakeQuantize), so nothing is calibrated
again; its low-precision passes turn them into int8 kernels. The network is traced at the first call of a kind and
compiled with any number of rows; another size of picture is another kind.
"""

# pyright: basic
# OpenVINO and torch's tracer carry no types; they stop at this module's own signatures.

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from genbench.errors import MissingDependency, UsageError
from genbench_ptq4dm.integer import check_gradient

INSTALL = "engine=openvino needs openvino; install it: pip install 'genbench[quant]' (or take ptq4dm.engine=torch)"
TENSOR = object()
"""Stands among a call's constants where a tensor is."""
ROWS = -1
"""OpenVINO's word for a dimension of any length."""


def installed() -> bool:
    """Whether OpenVINO is here."""
    return importlib.util.find_spec("openvino") is not None


def check_installed() -> None:
    """Raise MissingDependency where it is not."""
    if not installed():
        raise MissingDependency(INSTALL)


def run_by_openvino(network: nn.Module) -> None:
    """Let OpenVINO compute what the network computes, in the network itself."""
    network.forward = Executed(network)


@dataclass
class Executed:
    """The forward of a network. Copies of the network, perhaps with a LoRA, are traced for themselves."""

    network: nn.Module
    compiled: dict[object, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **keywords: Any) -> tuple[Tensor]:
        """Return (output,), float32, on the CPU; `return_dict` has to be False."""
        leaves, form = trees.tree_flatten((args, keywords))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for tensor in tensors:
            check_gradient(tensor)
        rest = tuple(TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        key = str(form), repr(rest), tuple((tensor.shape[1:], tensor.dtype) for tensor in tensors)
        if key not in self.compiled:
            self.compiled[key] = compiled(Call(self.network, form, rest), tensors)
        made = self.compiled[key]([tensor.detach().cpu().numpy() for tensor in tensors])[0]
        return (torch.from_numpy(made),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Executed:
        return Executed(copy.deepcopy(self.network, memo))


class Call(nn.Module):
    """A network's own forward as a function of tensors alone."""

    def __init__(self, network: nn.Module, form: Any, rest: Sequence[Any]) -> None:
        super().__init__()
        self.network, self.form, self.rest = network, form, rest

    def forward(self, *tensors: Tensor) -> Tensor:
        given = iter(tensors)
        leaves = [next(given) if leaf is TENSOR else leaf for leaf in self.rest]
        args, keywords = trees.tree_unflatten(leaves, self.form)
        return type(self.network).forward(self.network, *args, **keywords)[0]


def compiled(call: nn.Module, tensors: Sequence[Tensor]) -> Any:
    """An OpenVINO program for tensors like these, of any number of rows. Raises MissingDependency, UsageError."""
    check_installed()
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        raise UsageError("engine=openvino computes in float32 between its integers; give dtype=float32")
    import openvino
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's: what it warns of is fixed for a kind of call
        traced = torch.jit.trace(call.eval(), tuple(tensors), check_trace=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # has to live until the conversion is done
        model = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(model, cf=False)  # makes of our integers what the low-precision passes look for
    shapes = [[ROWS, *tensor.shape[1:]] if tensor.ndim else [] for tensor in tensors]
    model.reshape(dict(zip(model.inputs, map(openvino.PartialShape, shapes), strict=True)))
    return openvino.Core().compile_model(model, "CPU", settings())


def settings() -> dict[str, Any]:
    """float32 where integers are not asked for, as many threads as torch has, no core of its own."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # several workers would share the first cores
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def kinds(program: Any) -> dict[str, int]:
    """How many layers and convolutions of a program run in which type: {"I8": 95, "f32": 2}."""
    found: dict[str, int] = {}
    for node in program.get_runtime_model().get_ops():
        told = node.get_rt_info()
        if "layerType" in told and str(told["layerType"].value) in ("Convolution", "FullyConnected"):
            kind = str(told["primitiveType"].value).rpartition("_")[2]
            found[kind] = found.get(kind, 0) + 1
    return found
