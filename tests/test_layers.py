"""Where values come from, and which place wins."""

import os
from pathlib import Path

import platformdirs
import pytest

from genbench import layers
from genbench.errors import UsageError
from genbench.request import resolve


def user_file(text: str) -> None:
    folder = Path(platformdirs.user_config_dir("genbench", appauthor=False))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "genbench.toml").write_text(text)


@pytest.fixture(autouse=True)
def _no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_precedence(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_file("steps = 1\nheight = 1\nwidth = 1\nguidance_scale = 1\n[search]\ncandidates = 1\n")
    (work / "genbench.toml").write_text("steps = 2\nheight = 2\nwidth = 2\n[search]\ncandidates = 2\nother = 2\n")
    monkeypatch.setenv("GENBENCH_STEPS", "3")
    monkeypatch.setenv("GENBENCH_HEIGHT", "3")
    monkeypatch.setenv("GENBENCH_SEARCH__CANDIDATES", "3")
    resolved = resolve({"steps": "4", "plugin": "search"})
    found = {name: (resolved.value(name), resolved.origin(name)) for name in ("steps", "height", "width", "seed")}
    assert found == {
        "steps": (4, "command line"),
        "height": (3, "environment"),
        "width": (2, "project file"),
        "seed": (0, "default"),
    }
    assert resolved.value("guidance_scale") == 1.0 and resolved.origin("guidance_scale") == "user file"
    assert resolved.options == {"search": {"candidates": "3", "other": 2}}
    assert resolved.origin("search.candidates") == "environment" and resolved.origin("search.other") == "project file"
    assert resolve({"plugin": "search", "search.candidates": 9}).options["search"]["candidates"] == 9


def test_recommended_settings_come_last_and_the_plugin_before_the_model(work: Path) -> None:
    (work / "genbench.toml").write_text("height = 8\n")
    resolved = resolve({"width": "16", "steps": "none"})
    resolved = resolved.with_recommended("plugin sid", {"steps": 1, "height": 99, "guidance_scale": None})
    resolved = resolved.with_recommended("model toy", {"steps": 10, "width": 99, "guidance_scale": 2.0})
    assert [resolved.value(name) for name in ("steps", "height", "width", "guidance_scale")] == [1, 8, 16, 2.0]
    assert resolved.origin("steps") == "plugin sid" and resolved.origin("guidance_scale") == "model toy"


def test_a_field_hides_the_one_it_excludes_in_lower_places(work: Path) -> None:
    (work / "genbench.toml").write_text('seeds = "0..9"\nprompts = "p.txt"\n')
    resolved = resolve({"seed": "7", "prompt": "a", "num_images": "2"})
    assert list(resolved.request.all_seeds) == [7, 8] and resolved.request.prompts is None
    assert resolve({"num_images": 3, "prompt": "a"}).request.seeds is None


def test_options_of_other_plugins_in_files_are_left_alone(work: Path) -> None:
    (work / "genbench.toml").write_text("[search]\ncandidates = 8\n")
    assert resolve({"prompt": "a"}).options == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 0", r"steps=0 is out of range: it is in \[1, .* \(in genbench.toml\)"),
        ("stpes = 3", r"no word 'stpes'; did you mean 'steps'\? \(in genbench.toml\)"),
        ("seed = 1\nseeds = [1]", r"seed= and seeds= are both given \(in genbench.toml\)"),
        ("steps = ", "genbench.toml is no valid TOML"),
        ("steps = 3.0", "steps=3.0 is not a whole number"),
    ],
)
def test_mistakes_in_a_file_name_the_file(work: Path, text: str, message: str) -> None:
    (work / "genbench.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        resolve({"prompt": "a"})


def test_mistakes_in_the_environment_name_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_STEPS", "many")
    with pytest.raises(UsageError, match=r"steps=many is not a whole number \(in the environment\)"):
        resolve({})
    assert resolve({}, files=False).request.steps is None


def test_unknown_variables_are_warned_about_and_our_own_are_not(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_DEBUG", "1")
    monkeypatch.setenv("GENBENCH_SEED", "")
    assert layers.environment(os.environ).words == {}
    with pytest.warns(UserWarning, match="GENBENCH_STPES is ignored: there is no word 'stpes'; did you mean 'steps'"):
        layers.environment({"GENBENCH_STPES": "3"})


def test_options_are_flattened_from_every_spelling() -> None:
    words = {"steps": 3, "search": {"a": 1}, "options": {"halo": {"b": 2}}, "x.c": 3}
    assert layers.flatten(words) == {"steps": 3, "search.a": 1, "halo.b": 2, "x.c": 3}


def test_options_find_their_plugin() -> None:
    stack = [layers.Layer("command line", {"late_guidance.start": "0.3", "my-plugin.a": "1"})]
    options, origins = layers.plugin_options(stack, ("./late.py:LateGuidance", "my-plugin"))
    assert options == {"./late.py:LateGuidance": {"start": "0.3"}, "my-plugin": {"a": "1"}}
    assert origins["./late.py:LateGuidance.start"] == "command line"


def test_an_option_without_its_plugin_stops() -> None:
    stack = [layers.Layer("command line", {"serach.candidates": "3"})]
    with pytest.raises(UsageError, match="plugin=search has no 'serach'; did you mean 'search'"):
        layers.plugin_options(stack, ("search",))
    with pytest.raises(UsageError, match="has no 'serach'; add plugin=serach"):
        layers.plugin_options(stack, ())
