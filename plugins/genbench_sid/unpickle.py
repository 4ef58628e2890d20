"""Read the tensors out of a pickled network without running anything of the file, in a process of its own.

    python -IB unpickle.py FILE.pkl KEY OUT.safetensors

A pickle is a program. Here it may build containers, numbers and tensors (`SAFE`); every other class or function that it
names becomes an inert stand-in, which keeps what it is given and does nothing. Names of the standard library are
refused, and so is, by an audit hook, every process, socket and removal of a file.
"""

# pyright: basic
# What a pickle holds has no types.

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._utils
from safetensors.torch import save_file
from torch import Tensor

REFUSED_EVENTS = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.remove", "os.rename", "os.rmdir"),
    *("subprocess.", "socket.", "shutil.", "pty.", "ctypes.", "urllib."),
)


class RefusedError(Exception):
    """What a file asks for, and what no network needs."""


class Inert:
    """Stands for any class or function of a file: keeps arguments, state and items."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.args, self.state, self.items = args, {}, {}

    def __new__(cls, *args: Any, **named: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state, made.items = args, {}, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Lists of a class of their own are of no use here."""


def storage(data: bytes) -> Any:
    """A tensor's numbers, which torch pickles in a pickle of their own: only tensors and storages are read there."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def parameter(data: Tensor, requires_grad: bool = False, hooks: Any = None, state: Any = None) -> Tensor:
    """A parameter is its tensor."""
    return data


def tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A view into a storage; hooks are left out."""
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def latin(text: str, encoding: str) -> bytes:
    """Bytes as old pickles spell them."""
    return text.encode("latin1")


SAFE: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): latin,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch.storage", "_load_from_bytes"): storage,
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): parameter,
}
STANDARD = sys.stdlib_module_names
KEPT = {("functools", "partial"), ("collections", "defaultdict"), ("pathlib", "PosixPath"), ("builtins", "object")}
"""Names of the standard library that modules do hold; stand-ins like all others."""


class Reader(pickle.Unpickler):
    """An unpickler that knows `SAFE` and stand-ins alone."""

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 and old protocols call it
        if (module, name) in SAFE:
            return SAFE[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.partition(".")[0] in STANDARD and (module, name) not in KEPT:
            raise RefusedError(f"it asks for {module}.{name}, which no network needs; such a file is not opened")
        return type(name.rpartition(".")[2], (Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("it points outside itself; such a file is not opened")


def state_dict(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors by name of the module that a pickled dict holds under `key`. Raises RefusedError."""
    with path.open("rb") as file:
        try:
            found = Reader(file).load()
        except RefusedError:
            raise
        except Exception as error:  # a damaged or hostile pickle may raise anything
            raise RefusedError(f"it cannot be read ({type(error).__name__}: {error})".splitlines()[0]) from error
    network = found.get(key) if isinstance(found, Mapping) else None
    tensors = dict(_tensors(network, "")) if isinstance(network, Inert) else {}
    if not tensors:
        raise RefusedError(f"it holds no network under '{key}'")
    return tensors


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """What `nn.Module.state_dict` would give: parameters, persistent buffers, then each submodule's."""
    state = _state(module)
    passing = state.get("_non_persistent_buffers_set", ())
    own = {**state.get("_parameters", {}), **state.get("_buffers", {})}
    for name, value in own.items():
        if isinstance(value, Tensor) and name not in passing:
            yield prefix + name, value.detach()
    for name, child in state.get("_modules", {}).items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def _state(module: Any) -> Mapping[str, Any]:
    """A module's own attributes. EDM's modules are rebuilt by a function from a dict that has them as `state`."""
    if not isinstance(module, Inert):
        raise RefusedError(f"a submodule is a {type(module).__name__}")
    told = [each.items for each in module.args if isinstance(each, Inert)]
    inside = next((items["state"] for items in told if "state" in items), module.state)
    return inside if isinstance(inside, Mapping) else {}


def wall(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: refuse whatever reaches beyond this process and its one file."""
    if event.startswith(REFUSED_EVENTS):
        raise RefusedError(f"it reached for {event}; such a file is not opened")


def main() -> None:
    """Convert, or say in one line on stderr why not."""
    path, key, out = sys.argv[1:]
    sys.addaudithook(wall)
    try:
        tensors = state_dict(Path(path), key)
    except RefusedError as error:
        sys.exit(str(error))
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, out)


if __name__ == "__main__":
    main()
