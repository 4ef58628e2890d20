"""The gallery's rows and small pictures."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genbench.evaluation import gallery as module, thumbnails as small_module
from genbench.evaluation.gallery import gallery
from genbench.evaluation.numbers import Style
from genbench.evaluation.store import Made
from genbench.evaluation.thumbnails import EDGE, FILE, thumbnails


def picture(chain: str, prompt: str, seed: int, image: str = "", path: str = "x.png") -> Made:
    key = f"{chain}{prompt}{seed}"
    return Made(key, chain, prompt, prompt, seed, path, image or key, 20, 0.5, f"text {prompt}", {}, prompt)


def test_a_row_is_a_prompt_and_a_seed_whatever_the_order_made() -> None:
    made = [
        picture("a", "q", 1),
        picture("a", "p", 1),
        picture("a", "p", 0),
        picture("b", "p", 0),
        picture("b", "q", 1),
    ]
    rows = gallery(made, {"a": "A", "b": "B", "c": "never drawn"}, {}, {}, {}).data["rows"]
    assert [(row[0], row[1]) for row in rows] == [("text q", 1), ("text p", 0), ("text p", 1)]
    assert [[cell is not None for cell in row[3]] for row in rows] == [[True, True], [True, True], [True, False]]


def test_cells_carry_scores_and_kinds() -> None:
    made = [picture("a", "p", 0), picture("a", "q", 0)]
    scores = {("clip", ""): {("ap0", "p"): 0.123456789, ("aq0", "q"): math.nan}, ("clip", "part"): {("ap0", "p"): 1.0}}
    groups = {"all": lambda m: True, "one": lambda m: m.pair == "p", "two": lambda m: m.pair == "q"}
    data = gallery(made, {"a": "A"}, groups, scores, {}).data
    assert data["metrics"] == [{"name": "clip", "rate": False, "power": 0}] and data["kinds"] == ["one", "two"]
    assert [row[2] for row in data["rows"]] == [[0], [1]]
    assert [row[3][0] for row in data["rows"]] == [["x.png", 20, [0.12346], -1], ["x.png", 20, [None], -1]]


def test_chains_are_set_against_their_partners_and_small_scores_are_multiplied() -> None:
    made = [picture(chain, "p", 0) for chain in "abcd"]
    names, partner = {each: each.upper() for each in "abcd"}, {"b": "a", "c": "a", "d": "c"}
    scores = {("kid", ""): {("ap0", "p"): 1e-6}}
    data = gallery(made, names, {}, scores, {}, {"kid": Style(power=6)}, partner).data
    assert data["against"] == [None, 0, 0, 2]
    assert data["metrics"] == [{"name": "kid ×10⁶", "rate": False, "power": 6}]
    assert gallery(made[1:], names, {}, {}, {}, {}, partner).data["against"] == [None, 0, 1]


def test_small_pictures_are_found_in_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    made = [picture("a", str(n), 0, image="same" if n < 2 else f"i{n}") for n in range(5)]
    small = {"same": "S", **{f"i{n}": f"T{n}" for n in range(2, 5)}}
    found = gallery(made, {"a": "A"}, {}, {}, small)
    assert found.blocks == ["S", "T2\nT3", "T4"] and found.data["block"] == 2
    for i, row in enumerate(found.data["rows"]):
        assert found.blocks[i // 2].split("\n")[row[3][0][3]] == small[made[i].image]


def draw(path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_thumbnails_shrink_and_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "large.png", (400, 200))
    draw(tmp_path / "little.png", (16, 16))
    made = [picture("a", "p", 0, "one", "large.png"), picture("a", "p", 1, "two", "little.png")]
    counted: list[int] = []
    found = thumbnails(tmp_path, made, counted.append)
    sizes = {image: Image.open(io.BytesIO(base64.b64decode(data))).size for image, data in found.items()}
    assert sizes == {"one": (EDGE, EDGE // 2), "two": (16, 16)} and sum(counted) == 2
    monkeypatch.setattr(small_module, "shrunk", lambda path: pytest.fail("made twice"))
    assert thumbnails(tmp_path, made, counted.append) == found and (tmp_path / FILE).is_file()


def test_a_picture_that_cannot_be_read_has_no_thumbnail_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    made = [picture("a", "p", 0)]
    assert thumbnails(tmp_path, made, lambda count: None) == {}
    draw(tmp_path / "x.png", (8, 8))
    assert set(thumbnails(tmp_path, made, lambda count: None)) == {"ap0"}
