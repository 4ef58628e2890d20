"""README and the general pages under docs/ say what is so: commands run, tables match the code, links lead somewhere."""

import inspect
import re
from pathlib import Path

import pytest

from genbench import request
from genbench.kinds import GROUPS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- tables and links ---------------------------------------------------------------------------------------------


def _help() -> dict[str, str]:
    source = inspect.getsource(request.Request)
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))


def _shown(default: object) -> str:
    if default is None or default in ("", ()):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(name: str) -> str:
    """A table cell: no column separator, and none is said by the empty default."""
    return name.removesuffix(" or none").replace(" | ", ", ")


def _options_table() -> list[str]:
    """One line per request field, as it stands in docs/options.md."""
    said = _help()
    return [
        f"| `{option.name}` | {_type(option.type)} | {_shown(option.default)} | {said[option.name]} |"
        for option in request.schema().values()
    ]


def test_options_page_lists_every_word() -> None:
    lines = re.findall(r"^\| `[a-z_]+` \|.*\|$", _text("docs/options.md"), re.MULTILINE)
    assert lines == _options_table(), "\n".join(["docs/options.md should say:", *_options_table()])


def test_architecture_page_lists_every_kind() -> None:
    page = _text("docs/architecture.md")
    for kind in GROUPS:
        assert f"| `{kind.group}` | `{kind.method}` | {kind.law} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert not missing


def test_index_lists_every_page() -> None:
    index = _text("docs/index.md")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and page.name not in index]
