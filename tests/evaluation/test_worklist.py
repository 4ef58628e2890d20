"""Cells are keyed by what is in their pictures: what changes a key, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genbench.errors import GenbenchError, PluginError, UsageError
from genbench.evaluation import worklist
from genbench.evaluation.worklist import Settings
from genbench.request import resolve

ROWS: list[dict[str, object]] = [
    {"prompt": "red", "kind": "one"},
    {"prompt": "blue", "kind": "one"},
    {"prompt": "red blue", "kind": "two"},
]


def prompt_file(folder: Path, rows: list[dict[str, object]], name: str = "p.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(folder: Path, rows: list[dict[str, object]] = ROWS, **words: Any) -> Settings:
    file = prompt_file(folder, rows)
    return worklist.settings_of(resolve({"model": "toy", "prompts": file, "seeds": "0..1", **words}, files=False))


def keys(chosen: Settings) -> list[str]:
    return [cell.key for cell in worklist.cells(chosen)]


def test_cells_are_prompts_times_seeds(tmp_path: Path) -> None:
    cells = list(worklist.cells(settings(tmp_path)))
    assert [(cell.item.prompt, cell.item.seed) for cell in cells] == [(p["prompt"], s) for p in ROWS for s in (0, 1)]
    assert len({cell.key for cell in cells}) == 6 and len({cell.pair for cell in cells}) == 3


@pytest.mark.parametrize(
    "words", [{"batch_size": 4}, {"out": "elsewhere"}, {"format": "json"}, {"metadata": "none"}, {"offline": True}]
)
def test_what_does_not_shape_a_picture_changes_no_key(tmp_path: Path, words: dict[str, Any]) -> None:
    assert keys(settings(tmp_path, **words)) == keys(settings(tmp_path))


def test_a_recommended_setting_typed_out_changes_no_key(tmp_path: Path) -> None:
    assert keys(settings(tmp_path, steps=10, guidance_scale=2.0)) == keys(settings(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        {"steps": 4},
        {"guidance_scale": 1.0},
        {"height": 32},
        {"plugin": "search"},
        {"negative_prompt": "green"},
        {"dtype": "float16"},
    ],
)
def test_what_shapes_a_picture_changes_every_key(tmp_path: Path, words: dict[str, Any]) -> None:
    assert not set(keys(settings(tmp_path, **words))) & set(keys(settings(tmp_path)))


def test_a_plugins_options_count_with_their_defaults(tmp_path: Path) -> None:
    plain = settings(tmp_path, plugin="search")
    typed = settings(tmp_path, plugin="search", options={"search": {"candidates": 4}})
    other = settings(tmp_path, plugin="search", options={"search": {"candidates": 8}})
    assert keys(plain) == keys(typed) and not set(keys(plain)) & set(keys(other))
    assert (plain.chain, plain.searches, settings(tmp_path).searches) == ("search", True, False)


def test_the_verifier_counts_only_where_a_search_follows_it(tmp_path: Path) -> None:
    assert keys(settings(tmp_path, verifier="solids-clip")) == keys(settings(tmp_path))
    searched = settings(tmp_path, plugin="search", verifier="solids-clip")
    assert not set(keys(searched)) & set(keys(settings(tmp_path, plugin="search")))


def test_other_columns_count_only_where_a_search_sees_them(tmp_path: Path) -> None:
    renamed: list[dict[str, object]] = [{**row, "kind": "renamed"} for row in ROWS]
    assert keys(settings(tmp_path, renamed)) == keys(settings(tmp_path))
    assert not set(keys(settings(tmp_path, renamed, plugin="search"))) & set(keys(settings(tmp_path, plugin="search")))


def test_chains_that_draw_the_same_text_share_the_pair(tmp_path: Path) -> None:
    plain, searched = (list(worklist.cells(settings(tmp_path, plugin=p))) for p in ("", "search"))
    assert [cell.pair for cell in plain] == [cell.pair for cell in searched]
    assert [cell.prompt for cell in plain] != [cell.prompt for cell in searched]


def test_a_column_that_overrides_an_option_counts(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": "red", "steps": 4}, {"prompt": "red"}]
    cells = list(worklist.cells(settings(tmp_path, rows)))
    assert len({cell.pair for cell in cells}) == 2
    assert [len(batch) for batch in worklist.chunks(cells, 16)] == [2, 2]


def test_a_column_that_overrides_an_option_counts_for_its_chain_alone(tmp_path: Path) -> None:
    plain: list[dict[str, object]] = [{"prompt": "red"}, {"prompt": "blue"}]
    changed: list[dict[str, object]] = [{"prompt": "red", "search.candidates": 2}, {"prompt": "blue"}]
    assert keys(settings(tmp_path, changed)) == keys(settings(tmp_path, plain))
    searched = [list(worklist.cells(settings(tmp_path, rows, plugin="search"))) for rows in (plain, changed)]
    assert [a.key == b.key for a, b in zip(*searched, strict=True)] == [False, False, True, True]
    assert [a.pair == b.pair for a, b in zip(*searched, strict=True)] == [True] * 4
    with pytest.raises(UsageError, match="candidates"):
        settings(tmp_path, [{"prompt": "red", "search.candidates": "many"}], plugin="search")


def test_growing_the_grid_keeps_what_was_there(tmp_path: Path) -> None:
    small = keys(settings(tmp_path, ROWS[:2]))
    assert set(small) < set(keys(settings(tmp_path, ROWS, seeds="0..3")))
    todo = worklist.to_do(list(worklist.cells(settings(tmp_path))), set(small))
    assert [cell.item.prompt for cell in todo] == ["red blue", "red blue"]


def test_a_prompt_listed_twice_is_drawn_once(tmp_path: Path) -> None:
    cells = worklist.unique(worklist.cells(settings(tmp_path, [*ROWS, ROWS[0]])))
    assert len(cells) == 6


def test_batches_hold_one_chain_and_at_most_size(tmp_path: Path) -> None:
    cells = [cell for plugin in ("", "search") for cell in worklist.cells(settings(tmp_path, plugin=plugin))]
    batches = list(worklist.chunks(cells, 4))
    assert [len(batch) for batch in batches] == [4, 2, 4, 2]
    assert all(len({cell.settings for cell in batch}) == 1 for batch in batches)


def test_settings_for_a_worker_are_light_and_sized(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    sent = worklist.for_worker(chosen, 16)
    assert sent.resolved.rows == () and sent.resolved.request.batch_size == 16 and sent.id == chosen.id
    assert worklist.for_worker(settings(tmp_path, batch_size=3), 16).resolved.request.batch_size == 3


@pytest.mark.parametrize(
    ("words", "error"),
    [({"plugin": "serch"}, PluginError), ({"plugin": "search", "options": {"search": {"candidates": 0}}}, UsageError)],
)
def test_what_cannot_run_stops_before_weights(
    tmp_path: Path, words: dict[str, Any], error: type[GenbenchError]
) -> None:
    with pytest.raises(error):
        settings(tmp_path, **words)
    with pytest.raises(GenbenchError, match="nowhere"):
        settings(tmp_path, model="./nowhere")


def test_a_models_files_are_hashed_without_being_opened(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    weights = folder / "unet" / "model.safetensors"
    weights.write_bytes(b"no weights at all")
    (folder / "README.md").write_text("does not count")
    before = worklist.weights_hash(resolve({"model": str(folder)}, files=False).request)
    (folder / "README.md").write_text("does not count at all")
    assert worklist.weights_hash(resolve({"model": str(folder)}, files=False).request) == before
    weights.write_bytes(b"other weights")
    assert worklist.weights_hash(resolve({"model": str(folder)}, files=False).request) != before
