"""report.html in a headless Chromium, at the width of a desktop and of a phone; skipped where none is installed."""

from __future__ import annotations

import io
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from genbench.evaluation import page, thumbnails
from genbench.evaluation.report import report
from genbench.evaluation.store import FILE, Store
from tests.evaluation import browser
from tests.evaluation.browser import Page
from tests.evaluation.comparison import EVIL, compare

pytestmark = pytest.mark.skipif(browser.program() is None, reason="needs Chromium: apt-get install chromium")

READY = "document.documentElement?.dataset.ready"
ROWS = "[...document.querySelectorAll('#rows article')]"
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison, moved after it was made."""
    made = compare(tmp_path_factory.mktemp("made"))
    return Path(shutil.move(made, tmp_path_factory.mktemp("a stick") / "moved ü"))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(started: Page, folder: Path) -> Page:
    started.events.clear()
    started.size(*DESKTOP)
    started.open(folder / page.FILE, READY)
    return started


def choose(tab: Page, name: str, value: str) -> None:
    tab.value(f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change')) }})({name})")


def titles(tab: Page) -> list[str]:
    return tab.value(f"{ROWS}.map(e => e.querySelector('h3').textContent)")


def complaints(tab: Page) -> list[object]:
    return [
        e
        for e in tab.events
        if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    ]


def test_nothing_is_run_fetched_or_complained_of(tab: Page) -> None:
    assert tab.value("document.title").startswith("cmp: comparison of 4 chains")
    assert EVIL in "".join(titles(tab))
    asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert asked and {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert len([url for url in asked if url.startswith("file")]) == 1  # the page alone: pictures wait for a click
    assert complaints(tab) == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_the_width_and_is_readable(tab: Page, folder: Path, size: tuple[int, int], dark: bool) -> None:
    tab.size(*size, dark=dark)
    tab.open(folder / page.FILE, READY)
    assert tab.value("document.documentElement.scrollWidth") == size[0]
    wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && e.scrollWidth > innerWidth)"
    assert tab.value(f"{wide}.length") == 0
    cells = tab.value(f"{ROWS}[0].querySelectorAll('.cell img')[0].getBoundingClientRect().width")
    assert 110 < cells < 220
    colours = tab.value("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert contrast(*colours) > 7 and luminance(colours[1]) < 0.1 if dark else luminance(colours[1]) > 0.9
    assert complaints(tab) == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_rows_are_filtered_by_kind_and_words(tab: Page) -> None:
    assert len(titles(tab)) == 6
    kinds = tab.value("[...kind.options].map(o => o.textContent)")
    choose(tab, "kind", str(kinds.index("two") - 1))
    assert titles(tab) == ["red green seed 0", "red green seed 1"]
    choose(tab, "kind", "")
    tab.value("(e => { e.value = 'GREEN red'; e.dispatchEvent(new Event('input')) })(document.getElementById('find'))")
    assert titles(tab) == ["red green seed 0", "red green seed 1"]
    assert tab.value("count.textContent") == "2 of 6 rows"


def test_rows_are_ordered_and_filtered_by_where_chains_disagree(tab: Page) -> None:
    data = tab.value("JSON.parse(document.getElementById('data').textContent)")
    values = [[cell[2][0] for cell in row[3] if cell] for row in data["rows"]]
    ranges = {f"{row[0]} seed {row[1]}": max(v) - min(v) for row, v in zip(data["rows"], values, strict=True)}
    choose(tab, "order", "range")
    assert titles(tab) == sorted(ranges, key=lambda name: -ranges[name])
    choose(tab, "order", "loss 3")
    gains = {f"{row[0]} seed {row[1]}": row[3][3][2][0] - row[3][0][2][0] for row in data["rows"]}
    assert titles(tab) == sorted(gains, key=lambda name: gains[name])
    tab.value("differ.click()")
    assert set(titles(tab)) == {name for name in ranges if ranges[name] >= sorted(ranges.values())[4]}


def test_a_click_enlarges_and_keys_walk_through_chains_and_rows(tab: Page) -> None:
    tab.value(f"{ROWS}[0].querySelectorAll('.picture')[0].click()")
    shown = "document.getElementById('viewer-picture')"
    tab.wait(f"{shown}.complete && {shown}.naturalWidth === 16")
    assert tab.value(f"{shown}.src").startswith("file:") and tab.value("viewer.open")
    chain = "document.getElementById('viewer-chain').textContent"
    assert tab.value(chain) == "none steps=2"
    tab.key("ArrowRight")
    assert tab.value(chain) == "search"
    tab.key("ArrowLeft")
    tab.key("ArrowLeft")
    assert tab.value(chain) == "none steps=4"
    tab.key("ArrowDown")
    tab.key("ArrowDown")
    told = tab.value("document.getElementById('viewer-text').textContent")
    assert EVIL in told and "seed 0" in told and "genbench rerun" in told
    tab.key("Escape")
    assert not tab.value("viewer.open") and tab.value("document.title").startswith("cmp")


def test_the_page_alone_shows_small_pictures_enlarged(tab: Page, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / page.FILE, tmp_path / "mailed.html")
    tab.open(tmp_path / "mailed.html", READY)
    tab.value(f"{ROWS}[0].scrollIntoView()")
    tab.wait(f"{ROWS}[0].querySelector('img').naturalWidth === 16")
    tab.value(f"{ROWS}[0].querySelector('.picture').click()")
    shown = "document.getElementById('viewer-picture')"
    tab.wait(f"{shown}.src.startsWith('data:') && {shown}.naturalWidth === 16")
    assert "not beside this page" in tab.value("document.getElementById('viewer-text').textContent")


def test_what_stands_behind_the_numbers_is_in_reach_below_the_first_rows(tab: Page, tmp_path: Path) -> None:
    crowd(tmp_path, prompts=60, chains=2)
    with Store(tmp_path) as store:
        tab.open(page.save(store, report(store), ("kind",)), READY)
    assert tab.value("[...document.querySelectorAll('section')].map(e => e.id)")[-4:-1] == [
        "gallery",
        "settings",
        "again",
    ]
    first = tab.value(f"{ROWS}.length")
    tab.value("scrollTo(0, document.body.scrollHeight)")
    assert tab.value("settings.getBoundingClientRect().top < innerHeight") and tab.value(f"{ROWS}.length") == first < 60
    tab.value("more.click()")
    tab.value("scrollTo(0, document.body.scrollHeight)")
    assert first < tab.value(f"{ROWS}.length") < 60  # who reads on below is left alone
    while not tab.value("end.hidden"):
        before = tab.value(f"{ROWS}.length")
        tab.value("end.scrollIntoView({ block: 'end' })")
        tab.wait(f"{ROWS}.length > {before}")
    tab.wait(f"{ROWS}.length === 60 && end.hidden")
    choose(tab, "kind", "1")
    assert tab.value(f"{ROWS}.length") == 12


def test_on_a_phone_a_row_of_a_table_is_a_card(tab: Page, folder: Path) -> None:
    """Every part of a comparison is within the width, with its column's name."""
    tab.size(*PHONE)
    tab.open(folder / page.FILE, READY)
    inside = "[...document.querySelectorAll('#comparisons td:not(:empty), #methods td:not(:empty)')]"
    assert tab.value(f"Math.max(...{inside}.map(e => e.getBoundingClientRect().right))") <= PHONE[0]
    labels = tab.value(f"{inside}.map(e => getComputedStyle(e, '::before').content)")
    assert {'"difference"', '"p"', '"win rate"', '"licence"'} <= set(labels) and "none" not in labels
    assert tab.value("getComputedStyle(document.querySelector('#comparisons thead')).display") == "none"


# --- ten thousand pictures ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_pictures_open_in_three_seconds(started: Page, tmp_path: Path) -> None:
    crowd(tmp_path, prompts=2500, chains=4)
    with Store(tmp_path) as store:
        found = report(store)
        path = page.save(store, found, ("kind",))
    assert len(found.metrics) == 2 and path.stat().st_size > 45e6
    started.size(*DESKTOP)
    assert started.open(path, READY) < 3.0
    assert started.value(f"{ROWS}.length") < 100
    started.value(f"{ROWS}[0].scrollIntoView()")
    started.wait(f"{ROWS}[0].querySelector('img').naturalWidth === {thumbnails.EDGE}")
    started.value("more.click()")
    for _ in range(5):
        before = started.value(f"{ROWS}.length")
        started.value("end.scrollIntoView({ block: 'end' })")
        started.wait(f"{ROWS}.length > {before}")
    assert started.value("performance.memory?.usedJSHeapSize ?? 0") < 500e6


def crowd(folder: Path, prompts: int, chains: int) -> None:
    """Fill a store and the cache of small pictures with rows that say there are pictures, judged by two scorers."""
    with Store(folder):
        pass
    rows = [
        (f"id{p}", f"id{p}", f"prompt {p}", json.dumps({"prompt": f"prompt {p}", "kind": p % 5}))
        for p in range(prompts)
    ]
    cells = [(c, p, f"{c}-{p}") for p in range(prompts) for c in range(chains)]
    content = json.dumps({"request": {"model": "toy"}, "plugins": [], "model": "m"})
    with closing(sqlite3.connect(folder / FILE)) as db, db:
        db.executemany("INSERT INTO settings VALUES (?, ?, ?)", [(str(c), f"chain{c}", content) for c in range(chains)])
        db.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?)", rows)
        pictures = [(key, str(c), f"id{p}", 0, f"{key}.png", key, 20, 0.5, 1, None, None, 0.0) for c, p, key in cells]
        db.executemany(f"INSERT INTO pictures VALUES ({','.join('?' * 12)})", pictures)
    rng = random.Random(0)
    with Store(folder) as store:
        pictures = store.pictures()
        store.add_scores("clip", "1", [(picture, "", rng.gauss(0.3, 0.05)) for picture in pictures])
        store.add_scores("exact", "1", [(picture, "", float(rng.random() < 0.7)) for picture in pictures])
    small = [webp(seed) for seed in range(20)]
    with closing(sqlite3.connect(folder / thumbnails.FILE)) as cache, cache:
        cache.execute("CREATE TABLE thumbnails (image TEXT PRIMARY KEY, webp BLOB)")
        drawn = [(key, small[i % len(small)]) for i, (_, _, key) in enumerate(cells)]
        cache.executemany("INSERT INTO thumbnails VALUES (?, ?)", drawn)


def webp(seed: int) -> bytes:
    """Return a small picture of about 4 KB, as `thumbnails` writes them: smooth colours under some grain."""
    rng, encoded = random.Random(seed), io.BytesIO()
    coarse = Image.frombytes("RGB", (8, 8), rng.randbytes(192)).resize((thumbnails.EDGE, thumbnails.EDGE))
    grain = Image.frombytes("RGB", (80, 80), rng.randbytes(19200)).resize(coarse.size)
    Image.blend(coarse, grain, 0.22).save(encoded, "WEBP", quality=thumbnails.QUALITY)
    return encoded.getvalue()
