"""Published pickles of SiD-LSG: the literal tables, the converter, and that nothing of a file ever runs."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from genbench import generate
from genbench.distilled import read_about
from genbench.errors import ModelError, UsageError
from genbench_sid.convert import convert, main, read
from genbench_sid.imports import LAYOUTS, published, time_of, unet as table
from genbench_sid.plugin import SiD
from genbench_sid.unpickle import RefusedError, state_dict, wall
from tests.test_fewstep import drawn, model_of
from tests.tiny import saved, tiny
from tests.training.rolling import resources

NAME = "batch512_cfg4.54.54.5_t625_8380_v2.pkl"
SHAPES = {
    "Stable Diffusion 1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "Stable Diffusion 2.1": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
}


def dumped(path: Path, **parts: object) -> Path:
    path.write_bytes(pickle.dumps(parts))
    return path


# --- tables -------------------------------------------------------------------------------------------------------


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network: Any = diffusers.UNet2DConditionModel(**SHAPES[name])  # type: ignore[arg-type]
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_tables_are_those_of_the_published_networks(layout: Any) -> None:
    shapes = shapes_of(layout.name)
    assert table(layout) == shapes and len(shapes) == 686
    assert published(shapes, "FILE") == layout


def test_a_published_network_that_is_not_whole() -> None:
    shapes = shapes_of("Stable Diffusion 1.5")
    shapes["mid_block.resnets.0.conv1.weight"] = (1280, 640, 3, 3)
    message = (
        r"FILE does not fit model=Stable Diffusion 1.5: its mid_block.resnets.0.conv1.weight is \[1280, 640, 3, 3\]"
    )
    with pytest.raises(ModelError, match=message):
        published(shapes, "FILE")
    small = {name: tuple(tensor.shape) for name, tensor in tiny("sd").unet.state_dict().items()}
    assert published(small, "FILE") is None


def test_the_level_is_read_off_the_name() -> None:
    assert time_of(Path(NAME), None) == 0.625 and time_of(Path(NAME), 0.5) == 0.5
    assert time_of(Path("x_t399.pkl"), None) == 0.399
    for path, time in (("batch512.pkl", None), (NAME, 1.5), (NAME, 0.0)):
        with pytest.raises(UsageError, match=r"--time"):
            time_of(Path(path), time)


# --- conversion ---------------------------------------------------------------------------------------------------


def test_a_converted_unet_draws_as_the_pickled_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Called as the authors do: sqrt(1 - abar_625) z at t = 625, and the predicted picture."""
    pupil = tiny("sd", seed=5).unet
    source = dumped(tmp_path / NAME, ema=pupil.requires_grad_(False))
    made = tmp_path / "student.safetensors"
    assert main([str(source), str(made), "--base", "tiny"]) == 0
    assert "208 tensors, a layout that is not a published one; draw with it: genbench run" in capsys.readouterr().out
    about = read_about(made)
    assert about is not None and (about.method, about.base, about.times) == ("sid", "tiny", (0.625,))
    model = model_of("sd")
    taught = SiD(str(made)).transform_model(model, resources(model))
    expected = pupil.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in taught.modules["unet"].state_dict().items())

    scheduler = diffusers.DDPMScheduler.from_config(model.pipeline.scheduler.config, clip_sample=False)  # type: ignore[attr-defined]
    z = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    t = torch.tensor(625)
    x = scheduler.add_noise(torch.zeros_like(z), z, t)
    with torch.no_grad():
        text = model.encode_prompt(("red cube", "blue"), guidance=False).positive["encoder_hidden_states"]
        noise = pupil(x, t, encoder_hidden_states=text).sample
        theirs = scheduler.step(noise, 625, x).pred_original_sample
        assert torch.allclose(drawn(taught, 1), theirs, atol=1e-4, rtol=1e-4)


def test_a_run_with_it_and_with_the_pickle_itself(tmp_path: Path) -> None:
    source = dumped(tmp_path / NAME, ema=tiny("sd", seed=5).unet)
    convert(source, tmp_path / "student.safetensors", "tiny")
    words: dict[str, Any] = {"plugin": "sid", "model": str(saved("sd", tmp_path / "tiny")), "prompt": "cat", "seed": 3}
    picture = generate(**words, options={"sid": {"weights": str(tmp_path / "student.safetensors")}})[0]
    assert picture.nfe == 1
    with pytest.raises(
        ModelError, match=r"can run code when opened; convert it: python -m genbench_sid.convert FILE.pkl"
    ):
        generate(**words, options={"sid": {"weights": str(source)}})


def test_a_model_of_which_no_student_comes_with_it() -> None:
    with pytest.raises(
        ModelError, match="no sid student is known for model='solids/weak'.*some for solids.*train one: genbench train"
    ) as caught:
        generate(plugin="sid", model="solids/weak", prompt="a red cube")
    assert "\n" not in str(caught.value)


class Block(nn.Module):
    """A module with all that a state dict has: parameters, buffers kept and not, parts, an absent part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.parts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.register_buffer("kept", torch.arange(4.0).reshape(2, 2).t())
        self.register_buffer("passing", torch.zeros(1), persistent=False)
        self.absent = None
        self.register_parameter("none", None)
        self.narrow = nn.Parameter(torch.ones(3, dtype=torch.float16))
        self.config = OrderedDict(size=torch.Size([1, 2]), kind=torch.bfloat16, names={"a", "b"})

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[1](self.parts[0](self.conv(x).mean((2, 3))[:, :2] @ self.kept)) * self.narrow[:2].float()


@pytest.fixture
def elsewhere() -> Iterator[types.ModuleType]:
    """A module that only the one who pickles has."""
    module = types.ModuleType("throwaway_networks")
    code = "from tests.plugins.test_sid_imports import Block\nclass EDMPrecond(Block): ...\n"
    exec(code, module.__dict__)
    module.EDMPrecond.__module__ = module.__name__  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def same(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fresh = Block()
    fresh.load_state_dict(tensors)
    expected = network.state_dict()
    equal = all(
        torch.equal(value, tensors[name]) and value.dtype == tensors[name].dtype for name, value in expected.items()
    )
    return equal and tensors.keys() == expected.keys() and torch.equal(fresh(x), network(x))


@pytest.mark.parametrize("protocol", (2, 4, 5))
def test_a_module_of_a_class_that_is_not_here(elsewhere: types.ModuleType, protocol: int, tmp_path: Path) -> None:
    network = elsewhere.EDMPrecond()
    (tmp_path / NAME).write_bytes(pickle.dumps({"ema": network}, protocol=protocol))
    del sys.modules["throwaway_networks"]
    try:
        assert same(network, read(tmp_path / NAME) if protocol == 4 else state_dict(tmp_path / NAME, "ema"))
    finally:
        sys.modules["throwaway_networks"] = elsewhere


class EasyDict(dict[str, Any]):
    """EDM's dict, `dnnlib.EasyDict`."""


def reconstructed(meta: EasyDict) -> object:
    """As EDM's `torch_utils.persistence._reconstruct_persistent_obj`, which runs the source that a file brings."""
    raise AssertionError("the file's code ran")


class Persistent(Block):
    """Pickled as EDM's modules are: by a function, from a dict with the source and the state."""

    def __reduce__(self) -> Any:
        meta = EasyDict(type="class", version=6, module_src="print('hello')", class_name="Net", state=self.__dict__)
        return reconstructed, (meta,), None


def test_edms_own_way_of_pickling(tmp_path: Path) -> None:
    network = Persistent()
    assert same(network, state_dict(dumped(tmp_path / NAME, ema=network), "ema"))


# --- nothing runs -------------------------------------------------------------------------------------------------


class Calls:
    """A pickle that calls what it is told to."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def hostile(trace: Path) -> dict[str, Calls]:
    """What a file may ask for, by the name that the refusal says."""
    shell, code = f"touch {trace}", f"open({str(trace)!r}, 'w')"
    return {
        f"{os.name if os.name == 'nt' else 'posix'}.system": Calls(os.system, shell),
        "builtins.eval": Calls(eval, code),
        "builtins.exec": Calls(exec, code),
        "builtins.getattr": Calls(getattr, "text", "upper"),
        "builtins.__import__": Calls(__import__, "os"),
        "subprocess.Popen": Calls(subprocess.Popen, shell),
    }


@pytest.mark.parametrize("name", hostile(Path("trace")))
def test_a_hostile_pickle_does_nothing(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    attack = hostile(trace)[name]
    for parts in ({"ema": attack}, {"ema": Block(), "more": attack}):
        with pytest.raises(RefusedError, match=f"asks for {name}, which no network needs"):
            state_dict(dumped(tmp_path / NAME, **parts), "ema")
        assert not trace.exists()


def test_nor_through_the_converter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, made = tmp_path / "trace", tmp_path / "student.safetensors"
    source = dumped(tmp_path / NAME, ema=Block(), more=Calls(os.system, f"touch {trace}"))
    assert main([str(source), str(made), "--base", "tiny"]) == ModelError.exit_code
    told = capsys.readouterr().err
    assert "system, which no network needs; such a file is not opened" in told and told.count("\n") == 1
    assert not trace.exists() and not made.exists()


def test_a_function_of_another_library_is_only_a_name(tmp_path: Path) -> None:
    """`torch.hub.load` would fetch and run; here it is a stand-in, and no network."""
    attack = Calls(torch.hub.load, "someone/something", "model")
    block = Block()
    assert same(block, state_dict(dumped(tmp_path / NAME, ema=block, more=attack), "ema"))
    with pytest.raises(RefusedError, match="it holds no network under 'ema'"):
        state_dict(dumped(tmp_path / NAME, ema=attack), "ema")


def test_a_pickle_inside_a_storage_does_not_run(tmp_path: Path) -> None:
    """A tensor's numbers are a pickle inside the pickle, which torch itself opens with everything allowed."""
    trace = tmp_path / "trace"
    buffer = io.BytesIO()
    torch.save(Calls(os.system, f"touch {trace}"), buffer)
    attack = Calls(torch.storage._load_from_bytes, buffer.getvalue())
    with pytest.raises(RefusedError, match="it cannot be read"):
        state_dict(dumped(tmp_path / NAME, ema=Block(), more=attack), "ema")
    assert not trace.exists()


def test_what_is_no_such_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"\x80\x04hello.", b"PK\x03\x04"):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(RefusedError, match="cannot be read"):
            state_dict(tmp_path / NAME, "ema")
    with pytest.raises(RefusedError, match="holds no network under 'ema'"):
        state_dict(dumped(tmp_path / NAME, G=Block()), "ema")
    assert main([str(tmp_path / "no_t625.pkl"), str(tmp_path / "out.safetensors"), "--base", "x"]) == 4
    assert "does not exist" in capsys.readouterr().err


def test_the_wall_behind_it() -> None:
    """An audit hook cannot be taken away again, so it is asked here as Python asks it."""
    for event in ("os.system", "subprocess.Popen", "socket.connect", "os.posix_spawn", "ctypes.dlopen", "os.remove"):
        with pytest.raises(RefusedError, match=f"reached for {event}"):
            wall(event, ())
    wall("open", ("file", "r", 0))
