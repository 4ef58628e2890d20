"""The store: rows that stay, readers beside writers, versions kept apart."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genbench.errors import UsageError
from genbench.evaluation.store import FILE, SetValue, Store
from genbench.evaluation.worklist import Cell, Settings
from genbench.request import Item, Request, Resolved

PLAIN = Settings("s" * 24, "none", {"request": {"model": "toy"}, "plugins": [], "model": "m"}, Resolved(Request()))

OTHER = replace(PLAIN, id="o" * 24, chain="other")


def cell(key: str = "k", prompt: str = "red", seed: int = 0, **row: object) -> Cell:
    item = Item(0, prompt, "", seed, {"prompt": prompt, **row})
    return Cell(key, PLAIN.id, f"id of {prompt}", f"pair of {prompt}", item)


def add(store: Store, chosen: Cell, image: str = "image", **changes: object) -> None:
    values = {"path": "a/b.png", "image": image, "nfe": 20, "seconds": 0.5, "batch": 1, "score": None, "trace": ()}
    store.add_plan([PLAIN], [chosen])
    store.add_picture(chosen, **{**values, **changes})


def set_value(settings: str, **changes: object) -> SetValue:
    plain = SetValue(settings, "kid", "clip", "1", "folder", 4, 5, "p", 0.5, (0.4, 0.6))
    return replace(plain, **changes)


def test_a_picture_comes_back_with_its_prompts_row(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        add(store, cell(seed=2**63 - 1, kind="one", unseen=True))
        assert store.done() == {"k"}
        (made,) = store.pictures()
        assert (made.path, made.image, made.nfe, made.seed, made.text) == ("a/b.png", "image", 20, 2**63 - 1, "red")
        assert made.row == {"prompt": "red", "kind": "one", "unseen": True} and made.pair == "pair of red"
        assert store.model() == "toy" and store.texts() == ["red"]


def test_the_row_that_scorers_see_can_change_later(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        add(store, cell(kind="one"))
        before = store.pictures()[0].asked
        store.add_plan([PLAIN], [cell(kind="other")])
        assert store.pictures()[0].row["kind"] == "other" and store.pictures()[0].asked != before


def test_a_picture_made_twice_stays_the_first(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        add(store, cell(), image="first")
        add(store, cell(), image="second")
        assert [made.image for made in store.pictures()] == ["first"]


def test_a_failure_stays_until_the_cell_is_made(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_plan([PLAIN], [cell()])
        store.add_failure(cell(), "ValueError: no")
        store.add_failure(cell(), "ValueError: still no")
        assert store.failures() == [(PLAIN.id, "red", 0, "ValueError: still no")] and store.done() == set()
        add(store, cell())
        assert store.failures() == []


def test_a_reader_sees_every_row_while_a_writer_is_at_work(tmp_path: Path) -> None:
    with Store(tmp_path) as writer, Store(tmp_path, create=False) as reader:
        for n in range(20):
            add(writer, cell(f"k{n}"))
            assert len(reader.done()) == n + 1
        writer._db.execute("BEGIN IMMEDIATE")  # a writer in the middle of a transaction
        assert len(reader.done()) == 20
        writer._db.execute("ROLLBACK")
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_scores_of_unlike_versions_are_never_mixed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name, image in (("a", "one"), ("b", "two")):
            add(store, cell(name, prompt=name), image=image)
        first, second = store.pictures()
        store.add_scores("clip", "1", [(first, "", 0.25), (second, "", 0.5), (first, "detail", 7.0)])
        store.add_scores("clip", "2", [(second, "", 0.75)])
        assert store.scores() == {("clip", ""): {("two", second.asked): 0.75}}
        assert store.scored("clip", "1") == {("one", first.asked), ("two", second.asked)}


def test_a_nan_score_of_an_earlier_version_is_none_and_a_nan_detail_stays(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        add(store, cell())
        (made,) = store.pictures()
        store.add_scores("clip", "1", [(made, "", math.nan), (made, "detail", math.nan)])
        assert ("clip", "") not in store.scores() and store.scored("clip", "1") == set()
        assert math.isnan(store.scores()["clip", "detail"]["image", made.asked])


def test_features_and_references_keep_their_numbers(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    with Store(tmp_path) as store:
        store.add_features("clip", "1", ["a", "b", "c"], vectors)
        found = store.features("clip", "1")
        assert all(np.array_equal(found[name], row) for name, row in zip("abc", vectors, strict=True))
        assert store.features("clip", "2") == {}
        assert store.reference_features("folder", "clip", "1") is None
        store.add_reference_features("folder", "clip", "1", vectors)
        kept = store.reference_features("folder", "clip", "1")
        assert kept is not None and np.array_equal(kept, vectors)


def test_set_values_are_replaced_per_chain_metric_and_encoder(tmp_path: Path) -> None:
    value = SetValue("s", "kid", "clip", "1", "folder", 4, 5, "p", 0.5, (0.4, 0.6))
    with Store(tmp_path) as store:
        store.add_set(value)
        store.add_set(SetValue(**{**vars(value), "value": 0.7}))
        assert [v.value for v in store.sets()] == [0.7] and store.sets()[0].without == (0.4, 0.6)


def test_set_values_of_unlike_versions_or_references_are_never_in_one_table(tmp_path: Path) -> None:
    made = [
        set_value("a", version="1"),
        set_value("b", version="1", reference="other"),
        set_value("c", version="2"),
        set_value("a", version="2"),
        set_value("a", metric="frechet", version="1"),
    ]
    with Store(tmp_path) as store:
        for value in made:
            store.add_set(value)
        assert {(v.settings, v.metric, v.version) for v in store.sets()} == {
            ("c", "kid", "2"),
            ("a", "kid", "2"),
            ("a", "frechet", "1"),
        }


def test_a_prompts_row_is_written_again_only_where_it_changed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_plan([PLAIN], [cell("a", "red", kind="one"), cell("b", "blue")])
        before = store._db.total_changes
        store.add_plan([PLAIN], [cell("a", "red", kind="one"), cell("b", "blue")])
        assert store._db.total_changes == before
        store.add_plan([PLAIN], [cell("a", "red", kind="two"), cell("c", "green"), cell("b", "blue")])
        assert store._db.total_changes == before + 3  # two rows, and how many there are
        assert store.pairs() == ["pair of red", "pair of blue", "pair of green"]


def test_what_could_not_be_scored_is_noted_until_it_is_asked_again(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name, image in (("a", "one"), ("b", "two")):
            add(store, cell(name, prompt=name), image=image)
        for made in store.pictures():
            store.add_unscored("clip", "1", made, "ValueError: no")
        assert store.unscored() == [("clip", 2, "ValueError: no")]
        store.forget_unscored("other")
        assert store.unscored() != []
        store.forget_unscored("clip")
        assert store.unscored() == []


def test_a_picture_whose_file_is_gone_is_forgotten(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in ("here", "gone"):
            add(store, cell(name), path=f"folder/{name}.png")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "here.png").touch()
        assert store.forget_missing() == 1 and store.done() == {"here"}


def test_a_picture_whose_file_is_not_as_long_as_written_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with Store(tmp_path) as store:
        for name, size in (("whole", 3), ("short", 4), ("unknown", None)):
            add(store, cell(name), path=f"folder/{name}.png", size=size)
            (tmp_path / "folder" / f"{name}.png").write_bytes(b"png")
        assert store.forget_missing() == 1 and store.done() == {"whole", "unknown"}


# --- the work ---------------------------------------------------------------------------------------------------------


def test_a_chain_has_the_cells_last_asked_for_and_those_that_are_there(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_plan([PLAIN, OTHER], [cell(f"k{n}") for n in range(5)])
        assert store.planned() == {PLAIN.id: 5, OTHER.id: 0}
        for n in range(2):
            store.add_picture(cell(f"k{n}"), path="", image="", nfe=1, seconds=0.1, batch=1, score=None, trace=())
        store.add_plan([PLAIN], [cell(f"k{n}") for n in (1, 7, 8, 9)])
        assert store.planned() == {PLAIN.id: 5, OTHER.id: 0}  # k0 is there, four are asked for
        store.add_plan([OTHER], [replace(cell("o"), settings=OTHER.id)])
        assert store.planned() == {PLAIN.id: 5, OTHER.id: 1}


def test_a_store_of_an_earlier_version_opens_and_counts_what_is_there(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        add(store, cell("a"))
        store.add_failure(cell("b"), "ValueError: no")
        for table in ("planned", "attempts", "files"):
            store._db.execute(f"DROP TABLE {table}")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").touch()
    with Store(tmp_path, create=False) as store:
        assert store.planned() == {PLAIN.id: 2} and store.attempts() == {} and store.made_with() == {}
        assert store.forget_missing() == 0 and store.done() == {"a"}


def test_a_process_that_ends_leaves_its_cells_noted_and_nothing_else_does(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        left = [("deadly", 2), ("drawn", 1), ("stopped", 1), ("failed", 1), ("made", 1)]
        store._many("INSERT INTO attempts VALUES (?, 'red', 0, ?)", left)
        with store.attempt([cell("drawn"), cell("first")]):
            assert store.attempts() == {**dict(left), "drawn": 2, "first": 1}  # what a process that ends here leaves
        with pytest.raises(KeyboardInterrupt), store.attempt([cell("stopped"), cell("first")]):
            raise KeyboardInterrupt
        add(store, cell("made"))
        store.add_failure(cell("failed"), "ValueError: no")
        assert store.attempts() == {"deadly": 2, "stopped": 1}


def test_what_pictures_were_made_with_is_counted(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name, versions in (("a", "torch 1"), ("b", "torch 2"), ("c", "torch 2"), ("d", "")):
            add(store, cell(name), made_with=versions)
        assert list(store.made_with().items()) == [("torch 2", 2), ("torch 1", 1)]


def test_what_is_no_store_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="out=.*file is a file; give a folder"):
        Store(tmp_path / "file")
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(UsageError, match=r"cannot be opened \(file is not a database\); give another folder"):
        Store(tmp_path)


def test_a_folder_without_results_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="genbench eval"):
        Store(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()
    with Store(tmp_path) as store, pytest.raises(UsageError, match="no chain yet"):
        store.model()
