"""Discovery: what is found, what is refused, and that one broken plugin breaks only its own runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genbench import discovery
from genbench.errors import MissingDependency, PluginError, UsageError

HEAD = """
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from genbench.kinds import About
from genbench.options import Range
"""
HALO = (
    HEAD
    + """
@dataclass(frozen=True)
class Halo:
    \"\"\"Scale every step.\"\"\"
    strength: float = 1.0  # how much, 0 is neutral
    steps: int = field(default=2, metadata={"range": (1, 9), "help": "steps that glow"})
    share: Annotated[float, Range(0, 1)] = 0.5
    mode: Literal["soft", "hard"] = "soft"
    about: ClassVar[About] = About("A halo.", contract=1)

    def __post_init__(self):
        if self.strength < 0:
            raise ValueError(f"strength={self.strength} has to be positive")

    def wrap_step(self, step, ctx):
        return step
"""
)
RING = HALO.replace("class Halo", "class Ring")


class Site:
    """A folder of fake installed distributions on sys.path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self, distribution: str, groups: dict[str, dict[str, str]], version: str = "0.1", **modules: str
    ) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"[genbench.{kind}]\n" + "".join(f"{n} = {v}\n" for n, v in e.items()) for kind, e in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return Site(folder)


@pytest.fixture
def halo(site: Site, request: pytest.FixtureRequest) -> Site:
    module = f"site_{abs(hash(request.node.nodeid)) % 10**8}"
    site.install("genbench-halo", {"step": {"halo": f"{module}:Halo"}}, **{module: HALO})
    return site


def test_entries_come_from_metadata_without_an_import(halo: Site) -> None:
    found = [entry for entry in discovery.entries("step") if entry.distribution == "genbench-halo"]
    assert [(e.name, e.kind, e.group, e.version) for e in found] == [("halo", "step", "genbench.step", "0.1")]
    assert found[0].value.partition(":")[0] not in sys.modules
    assert discovery.find("halo") == found[0]


def test_importing_and_listing_need_no_torch() -> None:
    code = "import sys, genbench.discovery as d; d.entries(); print('torch' in sys.modules, 'diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_build_reads_text_as_the_fields_types(halo: Site) -> None:
    plugin = discovery.build("halo", {"strength": "0.25", "steps": "3", "mode": "HARD"})
    assert (plugin.name, plugin.kinds) == ("halo", ("step",))
    assert (plugin.object.strength, plugin.object.steps, plugin.object.mode) == (0.25, 3, "hard")
    assert discovery.build("halo", {"strength": 2}).object.strength == 2.0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("strenght", "1", "halo has no option 'strenght'; did you mean 'strength'?"),
        ("steps", "12", "halo.steps=12 is out of range: it is in [1, 9]"),
        ("share", "1.5", "halo.share=1.5 is out of range: it is in [0, 1]"),
        ("share", "nan", "halo.share=nan is out of range: it is in [0, 1]"),
        ("steps", "many", "halo.steps=many is not a whole number"),
        ("mode", "loud", "halo.mode=loud: it is one of soft, hard"),
        ("strength", "-1", "halo: strength=-1.0 has to be positive"),
    ],
)
def test_wrong_options_are_one_line(halo: Site, option: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        discovery.build("halo", {option: value})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_required_option_is_asked_for(work: Path) -> None:
    Path("need.py").write_text(
        HEAD + "@dataclass(frozen=True)\nclass Need:\n    path: str\n    about: ClassVar[About] = "
        "About('x')\n    def wrap_step(self, step, ctx): return step\n"
    )
    with pytest.raises(UsageError, match=r"need needs need\.path="):
        discovery.build("./need.py")


def test_one_class_of_several_kinds_is_built_once(site: Site) -> None:
    both = HALO + "\n    def transform_noise(self, start, ctx):\n        return start\n"
    site.install(
        "genbench-both", {"step": {"both": "both_kinds:Halo"}, "noise": {"both": "both_kinds:Halo"}}, both_kinds=both
    )
    plugin = discovery.build("both")
    assert set(plugin.kinds) == {"step", "noise"}


def test_a_trainer_may_share_its_name_with_a_run_time_plugin(site: Site) -> None:
    trainer = RING.replace("wrap_step", "train")
    points = {"step": {"pair": "pair_m:Halo"}, "trainer": {"pair": "pair_m:Ring"}}
    site.install("genbench-pair", points, pair_m=HALO + trainer)
    assert discovery.plugin_class("pair").cls.__name__ == "Halo"
    assert discovery.plugin_class("pair", ("trainer",)).cls.__name__ == "Ring"


def test_a_clash_breaks_only_runs_that_name_it_and_says_how_to_pick(halo: Site) -> None:
    halo.install("other-halo", {"step": {"halo": "other_halo:Halo", "fine": "other_halo:Halo"}}, other_halo=HALO)
    with pytest.raises(PluginError) as caught:
        discovery.find("halo")
    assert str(caught.value) == (
        "two distributions ship 'halo': genbench-halo (a step) and other-halo (a step); "
        "pick one: genbench-halo:halo or other-halo:halo"
    )
    assert discovery.find("Other_Halo:halo").distribution == "other-halo"
    assert discovery.build("other-halo:halo").name == "halo"
    assert discovery.build("fine").name == "fine"


BROKEN = {
    "raises": ("raise RuntimeError('boom\\nmore')", "could not be imported: RuntimeError: boom"),
    "syntax": ("def (:\n", "plugin 'bad' (genbench-bad 0.3) does not parse: "),
    "absent": ("Other = 1", "could not be imported: AttributeError: module"),
    "no_class": ("Halo = 3", "which is no class; its author has to point at a class"),
    "no_about": (HALO.replace("about:", "abuot:"), "has no `about: ClassVar[About]`"),
    "melted": (HALO.replace("frozen=True", "frozen=False"), "no frozen dataclass; write @dataclass(frozen=True)"),
    "methodless": (HALO.replace("wrap_step", "wrapstep"), "is no step: Halo lacks wrap_step()"),
    "newer": (
        HALO.replace("contract=1", "contract=2"),
        "written for contract 2, this genbench has 1: upgrade genbench",
    ),
    "older": (HALO.replace("contract=1", "contract=0"), "contract 0, this genbench has 1: upgrade genbench-bad"),
}


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_a_broken_plugin_is_named_in_one_line_and_breaks_nothing_else(halo: Site, fault: str) -> None:
    source, said = BROKEN[fault]
    module = f"bad_{fault}"
    halo.install("genbench-bad", {"step": {"bad": f"{module}:Halo"}}, version="0.3", **{module: source})
    with pytest.raises(PluginError) as caught:
        discovery.build("bad")
    assert said in str(caught.value) and "genbench-bad" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert discovery.build("halo").name == "halo"
    assert "bad" in {entry.name for entry in discovery.entries()}


def test_a_missing_package_comes_with_its_install_command(site: Site) -> None:
    site.install("genbench-bad", {"step": {"bad": "needs_it:Halo"}}, needs_it="import not_there_at_all")
    with pytest.raises(MissingDependency, match="needs the package 'not_there_at_all': pip install not_there_at_all"):
        discovery.build("bad")
    site.install("genbench-gone", {"step": {"gone": "gone_module:Halo"}})
    with pytest.raises(PluginError, match="is broken: .*gone_module.*; reinstall genbench-gone"):
        discovery.build("gone")


def test_unknown_names_and_wrong_kinds_are_told_apart(halo: Site) -> None:
    with pytest.raises(PluginError, match="no plugin 'hallo'; did you mean 'halo'?"):
        discovery.find("hallo")
    with pytest.raises(PluginError, match="is a step, not a scorer; use plugin=halo"):
        discovery.find("halo", ("scorer",))


def test_load_plugins_limits_what_is_seen(halo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    halo.install("genbench-second", {"step": {"second": "second_m:Halo"}}, second_m=HALO)
    monkeypatch.setenv("GENBENCH_LOAD_PLUGINS", "")
    assert discovery.entries() == ()
    with pytest.raises(PluginError, match="GENBENCH_LOAD_PLUGINS='' limits what is seen"):
        discovery.find("halo")
    monkeypatch.setenv("GENBENCH_LOAD_PLUGINS", "Genbench.Halo, other")
    assert {entry.name for entry in discovery.entries()} == {"halo"}
    monkeypatch.setenv("GENBENCH_LOAD_PLUGINS", "second")
    assert {entry.name for entry in discovery.entries()} == {"second"}


# --- files --------------------------------------------------------------------------------------------------------


def test_a_class_in_a_file_gets_its_kinds_from_its_methods(work: Path) -> None:
    Path("halo.py").write_text(HALO + "\n    def transform_noise(self, start, ctx):\n        return start\n")
    named = discovery.build("./halo.py:Halo", {"strength": "0.5"})
    alone = discovery.build("halo.py")
    assert named.kinds == ("noise", "step") and named.entry is None
    assert (named.name, alone.name) == ("halo", "halo")
    assert type(named.object) is type(alone.object)
    assert discovery.short_name("./a/b.py:BestOf") == "best_of"
    assert discovery.short_name("./a/b.py") == "b"
    assert discovery.short_name("genbench-halo:halo") == "halo"


def test_an_edited_file_is_loaded_anew(work: Path) -> None:
    Path("halo.py").write_text(HALO)
    assert discovery.build("./halo.py").object.strength == 1.0
    Path("halo.py").write_text(HALO.replace("strength: float = 1.0", "strength: float = 3.0"))
    assert discovery.build("./halo.py").object.strength == 3.0


FILES = {
    "missing": (None, "./f.py", "plugin file 'f.py' does not exist"),
    "syntax": ("x = 1\ndef (:\n", "./f.py", "f.py:2: invalid syntax"),
    "raises": ("x = 1\n\nx / 0\n", "./f.py", "f.py:3: ZeroDivisionError: division by zero"),
    "no_such_class": (HALO, "./f.py:Hallo", "./f.py has no class 'Hallo'; did you mean 'Halo'?"),
    "empty": ("x = 1", "./f.py", "./f.py has no plugin class: a frozen dataclass with `about` and the method of a"),
    "two": (HALO + RING, "./f.py", "./f.py has 2 plugin classes; name one: ./f.py:Halo, ./f.py:Ring"),
    "methodless": (
        HALO.replace("wrap_step", "w"),
        "./f.py",
        "./f.py:Halo has the method of no kind: transform_model()",
    ),
    "no_about": (HALO.replace("about:", "abuot:"), "./f.py", "./f.py:Halo has no `about: ClassVar[About]`"),
    "binary": ("x = '\0'", "./f.py", "f.py:"),
}


@pytest.mark.parametrize("fault", sorted(FILES))
def test_a_file_that_is_no_plugin_is_explained_in_one_line(work: Path, fault: str) -> None:
    source, word, said = FILES[fault]
    if source is not None:
        Path("f.py").write_text(source)
    with pytest.raises(PluginError) as caught:
        discovery.build(word)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(work: Path) -> None:
    Path("halo.py").write_text(HALO)
    with pytest.raises(PluginError, match="halo.py:Halo is a step, which is not what was asked for: scorer"):
        discovery.build("./halo.py:Halo", kinds=("scorer",))


def test_a_fingerprint_follows_the_content_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    package = tmp_path / "genbench_inked"
    package.mkdir()
    (package / "__init__.py").write_text("class Ink:\n    pass\n")
    (package / "weights.bin").write_bytes(b"one")
    monkeypatch.syspath_prepend(str(tmp_path))
    cls = importlib.import_module("genbench_inked").Ink
    first = discovery.fingerprint(cls)
    (package / "weights.bin").write_bytes(b"two")
    discovery.fingerprint.cache_clear()
    assert len(first) == 12 and discovery.fingerprint(cls) != first
    monkeypatch.delitem(sys.modules, "genbench_inked")
