"""What a fresh machine gets: every version pinned, every folder packaged, every entry point importable."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genbench.kinds import GROUPS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = [Requirement(line) for line in PROJECT["tool"]["uv"]["constraint-dependencies"]]
BUILD_PINS = [Requirement(line) for line in PROJECT["tool"]["uv"]["build-constraint-dependencies"]]
PACKAGED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
METHOD = {kind.group: kind.method for kind in GROUPS}
ENTRY_POINTS = [
    (group, name, value)
    for group, points in PROJECT["project"]["entry-points"].items()
    for name, value in sorted(points.items())
]
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz", ".npy", ".onnx", ".ckpt")
# Built from parts, so that this file does not hold what it forbids.
HOME = f"{Path.home()}/"
MACHINE_WORDS = (
    "/wo" + "rk/",
    "/ro" + "ot/",
    *([HOME] if len(HOME) > 3 else []),
    "py" + "pi.org",
    "pythonho" + "sted",
    "find-" + "links",
)


def _tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


# --- versions -----------------------------------------------------------------------------------------------------


def _walk(requirements: list[Requirement], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Names of the installed distributions that these requirements reach, extras and markers followed."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                distribution = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue
            yield name
            needs = [Requirement(line) for line in distribution.requires or ()]
            yield from _walk([need for need in needs if _applies(need.marker, extra)], seen)


def _applies(marker: Marker | None, extra: str) -> bool:
    return marker is None or marker.evaluate({"extra": extra})


def _everything_asked_for() -> list[Requirement]:
    project = PROJECT["project"]
    groups = [line for lines in PROJECT["dependency-groups"].values() for line in lines]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras, *groups)]


def test_every_installed_package_of_the_tree_is_pinned_exactly() -> None:
    pinned = {canonicalize_name(pin.name) for pin in PINS}
    tree = set(_walk(_everything_asked_for(), set())) - {"genbench"}
    assert len(tree) > 20
    assert not tree - pinned, "run: python .ci/renew-pins"


def test_every_package_of_the_resolved_tree_is_pinned_exactly() -> None:
    """Where `uv` has resolved this checkout: its lock covers every platform and Python, also what is not installed."""
    lock = ROOT / "uv.lock"
    if not lock.exists():
        pytest.skip("no uv.lock: this checkout was not set up by uv")
    packages = [package for package in tomllib.loads(lock.read_text())["package"] if "registry" in package["source"]]
    pinned = {(canonicalize_name(pin.name), str(pin.specifier)) for pin in PINS}
    missing = {(package["name"], f"=={package['version']}") for package in packages} - pinned
    assert not missing, "run: python .ci/renew-pins"


def test_pins_are_exact_and_exclusive() -> None:
    for pin in (*PINS, *BUILD_PINS):
        assert [clause.operator for clause in pin.specifier] == ["=="], str(pin)
    for python in ("3.11", "3.12", "3.13", "3.14"):
        here = {"python_version": python, "python_full_version": f"{python}.0"}
        names = [pin.name for pin in PINS if pin.marker is None or pin.marker.evaluate(here)]
        assert len(names) == len(set(names)), f"Python {python} gets two pins of one package"


def test_what_builds_is_pinned() -> None:
    names = {pin.name for pin in BUILD_PINS}
    asked = {Requirement(line).name for line in PROJECT["build-system"]["requires"]}
    assert asked | {"editables", "pathspec", "pluggy", "packaging", "trove-classifiers"} <= names


def test_plain_pip_reads_a_range_for_what_breaks_between_versions() -> None:
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["xformers"]]
    asked = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    for name in ("torch", "torchvision", "diffusers", "transformers", "xformers"):
        assert {clause.operator for clause in asked[name]} == {">=", "<"}, name
    pins = {pin.name: next(iter(pin.specifier)).version for pin in PINS if pin.marker is None}
    assert all(asked[name].contains(pins[name]) for name in asked if name in pins)


def test_all_is_every_extra_and_the_development_group_has_it() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(Requirement(extras["all"][0]).extras) == set(extras) - {"all"}
    assert "genbench[all]" in PROJECT["dependency-groups"]["dev"]


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    assert metadata.version("genbench") == version
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert version in headings


def test_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


# --- folders and entry points -------------------------------------------------------------------------------------


def test_every_plugin_folder_is_packaged_and_every_packaged_folder_exists() -> None:
    folders = {f"plugins/{path.name}" for path in (ROOT / "plugins").glob("genbench_*") if any(path.glob("*.py"))}
    assert folders == set(PACKAGED) - {"genbench"}
    assert all((ROOT / name / "__init__.py").is_file() for name in PACKAGED)


def test_entry_point_groups_are_the_kinds() -> None:
    assert set(PROJECT["project"]["entry-points"]) <= set(METHOD)


@pytest.mark.parametrize(("group", "name", "value"), ENTRY_POINTS, ids=lambda word: str(word).rpartition(":")[2])
def test_entry_point_resolves_to_a_class_of_its_kind(group: str, name: str, value: str) -> None:
    module, _, attribute = value.partition(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, type), f"{name} = {value} is no class"
    assert callable(getattr(found, METHOD[group], None)), f"{name} = {value} has no {METHOD[group]}()"
    assert found.about.summary, f"{name} = {value} says nothing of itself"


def test_installed_entry_points_are_those_of_the_project() -> None:
    points = metadata.distribution("genbench").entry_points
    installed = {(point.group, point.name, point.value) for point in points if point.group in METHOD}
    assert installed == set(ENTRY_POINTS), "run: uv pip install -e . --no-deps"


# --- tracked files ------------------------------------------------------------------------------------------------


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    for path in _tracked():
        if path.suffix in (*WEIGHT_SUFFIXES, ".png", ".jpg", ".gif"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [word for word in MACHINE_WORDS if word in text], path


def test_weights_stay_small() -> None:
    sizes = {path: path.stat().st_size for path in _tracked() if path.suffix in WEIGHT_SUFFIXES}
    assert sum(sizes.values()) < 60e6, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_the_lock_and_the_outputs_stay_out_of_git() -> None:
    tracked = {str(path.relative_to(ROOT)) for path in _tracked()}
    assert "uv.lock" not in tracked
    assert {name for name in tracked if name.startswith("outputs/")} == {"outputs/.gitkeep"}


def test_every_python_file_parses_on_the_oldest_python() -> None:
    for path in _tracked():
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))


# --- the built distribution ---------------------------------------------------------------------------------------


def _uv(*words: str) -> None:
    command = os.environ.get("UV") or shutil.which("uv")
    if command is None:
        pytest.skip("needs uv")
    done = subprocess.run([command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _uv("build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT))
    return next(folder.glob("genbench-*.whl"))


@pytest.mark.slow
def test_wheel_has_every_tracked_file_of_its_packages(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGED:
        for path in _tracked():
            if path.is_relative_to(ROOT / package):
                name = path.relative_to((ROOT / package).parent).as_posix()
                assert name in inside, f"{name} is tracked and not in the wheel"


@pytest.mark.slow
def test_installed_wheel_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """An environment with the wheel alone, over the packages that are already here: no checkout is seen."""
    _uv("venv", "--quiet", "--python", sys.executable, str(tmp_path / "env"))
    bin_ = tmp_path / "env" / "bin"
    _uv("pip", "install", "--quiet", "--no-deps", "--python", str(bin_ / "python"), str(wheel))
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    # Paths that a .pth adds are not searched for further .pth files, so the checkout stays invisible.
    (site / "here.pth").write_text(sysconfig.get_path("purelib"))
    words = ["run", "model=toy", "prompt=red", "plugin=search", "format=json"]
    for arguments in (["plugins"], words):
        command = [bin_ / "genbench", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    picture = json.loads(done.stdout)
    assert (tmp_path / picture["path"]).is_file()
