"""Who may import whom, read from the source: the core in layers, plugins on the core's public modules alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "genbench"
PLUGINS = sorted(path for path in (ROOT / "plugins").glob("genbench_*") if any(path.rglob("*.py")))

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset(
        {"solvers", "streams", "sampler_names", "files", "hashes", "hub", "infotext", "peak", "cores", "instructions"}
    ),
    frozenset({"kinds"}),
    frozenset(
        {
            "options",
            "fields",
            "pluginfile",
            "columns",
            "prompts",
            "prompt_suites",
            "layers",
            "request",
            "discovery",
            "record",
            "replay",
        }
    ),
    frozenset(
        {
            "schedulers",
            "backbones",
            "models",
            "finetuned",
            "distilled",
            "fewstep",
            "studentfiles",
            "chain",
            "cost",
            "judging",
            "sampling",
            "searchspace",
            "embeddings",
        }
    ),
    frozenset({"generation", "training", "scenes"}),
    frozenset({"evaluation"}),
    frozenset(
        {
            "runner",
            "listing",
            "summaries",
            "plugincheck",
            "newplugin",
            "templates",
            "testing",
            "doctor",
            "bench",
            "viewing",
        }
    ),
    frozenset({"cli", "__main__"}),
)
"""Low to high; a module imports from its own layer and from those below it."""

OPEN_TO_PLUGINS = frozenset().union(*LAYERS) - {
    *(
        "columns",
        "fields",
        "pluginfile",
        "sampler_names",
        "layers",
        "request",
        "discovery",
        "record",
        "chain",
        "judging",
    ),
    *(
        "files",
        "infotext",
        "cores",
        "runner",
        "listing",
        "summaries",
        "plugincheck",
        "newplugin",
        "templates",
        "doctor",
        "bench",
        "viewing",
        "cli",
        "__main__",
    ),
}
LIGHT = ("errors", "kinds", "options", "request", "discovery", "listing", "newplugin", "cli", "__main__")
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "numpy", "scipy", "PIL"}
METHODS = ("npnet", "w2sd", "lml", "sid", "fdistill", "f-distill", "alignprop", "dragon", "asd", "tsm", "ptq4dm")


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts]


def _targets(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that an import statement reaches, relative ones made absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join((*above, *(node.module or "").split("."))).strip(".")
        yield from (f"{base}.{alias.name}" for alias in node.names)


def _imports(path: Path, base: Path, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(base).parent.parts
    nodes = _run_on_import(tree) if top_level_only else ast.walk(tree)
    return [target for node in nodes for target in _targets(node, package)]


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that importing a module executes: not those in functions, nor under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not lazy and not typing_only:
            yield child
            yield from _run_on_import(child)


def _core_module(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def _core_modules() -> set[str]:
    return {_core_module(path) for path in _files(CORE)} - {"__init__"}


def _layer(module: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if module in layer)


def _reached(target: str) -> str | None:
    """The module of genbench that a dotted name lies in; None for the package's own public names."""
    parts = target.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in _core_modules() else None


def test_every_module_has_its_layer() -> None:
    placed = frozenset().union(*LAYERS)
    assert _core_modules() <= placed, "a new module of genbench/ takes its place in LAYERS"
    assert sum(len(layer) for layer in LAYERS) == len(placed), "a module stands in two layers"


@pytest.mark.parametrize("path", _files(CORE), ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_go_down(path: Path) -> None:
    module = _core_module(path)
    if module == "__init__":
        return
    for target in (name for name in _imports(path, ROOT) if name.split(".")[0] == "genbench"):
        reached = _reached(target)
        if target == "genbench.__version__":
            continue
        assert reached is not None, f"{path.name} imports the package's front ({target}), not the module it needs"
        assert _layer(reached) <= _layer(module), f"{path.name} imports {target}, which stands above it"


def test_core_knows_no_plugin() -> None:
    for path in _files(CORE):
        roots = {target.split(".")[0] for target in _imports(path, ROOT)}
        assert not {name for name in roots if name == "plugins" or name.startswith("genbench_")}, path


def test_core_names_no_method() -> None:
    for path in _files(CORE):
        words = re.findall(rf"(?<![a-z0-9])({'|'.join(METHODS)})(?![a-z0-9])", path.read_text(encoding="utf-8").lower())
        assert not words, f"{path} names {words}"


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_stand_on_the_public_core_alone(plugin: Path) -> None:
    for path in _files(plugin):
        for target in _imports(path, plugin.parent):
            root, reached = target.split(".")[0], _reached(target)
            assert root == plugin.name or not root.startswith("genbench_"), f"{path} imports another plugin: {target}"
            private = root == "genbench" and any(part.startswith("_") for part in target.split(".")[1:])
            assert not private, f"{path} imports a private name: {target}"
            if root == "genbench" and reached is not None:
                assert reached in OPEN_TO_PLUGINS, f"{path} imports genbench.{reached}, which is not for plugins"


@pytest.mark.parametrize("module", [name for name in LIGHT if (CORE / f"{name}.py").exists()])
def test_listing_and_help_stay_light(module: str) -> None:
    seen, waiting = set[str](), [module, "__init__"]
    while waiting:
        name = waiting.pop()
        path = CORE / f"{name}.py"
        if name in seen or not path.exists():
            continue
        seen.add(name)
        targets = _imports(path, ROOT, top_level_only=True)
        heavy = {target.split(".")[0] for target in targets} & HEAVY
        assert not heavy, f"importing genbench.{module} reaches genbench.{name}, which imports {sorted(heavy)}"
        reached = {_reached(target) for target in targets if target.split(".")[0] == "genbench"}
        waiting += [name for name in reached if name is not None]


def test_the_rules_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "genbench" / "low.py"
    file.parent.mkdir()
    file.write_text("import torch.nn\nfrom . import cli\nfrom .record import Run\ndef f():\n    import genbench_x.y\n")
    assert _imports(file, tmp_path) == ["torch.nn", "genbench.cli", "genbench.record.Run", "genbench_x.y"]
    assert _imports(file, tmp_path, top_level_only=True) == ["torch.nn", "genbench.cli", "genbench.record.Run"]
