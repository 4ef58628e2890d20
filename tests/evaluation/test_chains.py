"""Names of chains, and which chains make a curve of score against cost."""

from __future__ import annotations

from genbench.evaluation.chains import Curve, Noted, curves, equal_cost, labels, partners


def noted(id: str, chain: str, options: dict[str, object] | None = None, **request: object) -> Noted:
    plugins = [{"plugin": chain, "version": "1", "options": options or {}}] if chain != "none" else []
    return id, chain, {"request": request, "plugins": plugins, "model": "m"}


def test_chains_of_one_name_get_what_differs() -> None:
    known = [noted("a", "none", steps=30, height=64), noted("b", "none", steps=20, height=64), noted("c", "halo")]
    assert labels(known) == {"a": "none steps=30", "b": "none steps=20", "c": "halo"}


def test_steps_and_options_make_curves_in_order_of_cost() -> None:
    known = [
        noted("a", "none", steps=30), noted("b", "none", steps=10), noted("c", "none", steps=20),
        noted("d", "search", {"candidates": 8}, steps=10), noted("e", "search", {"candidates": 4}, steps=10),
    ]  # fmt: skip
    cost = {"a": 60.0, "b": 20.0, "c": 40.0, "d": 160.0, "e": 80.0}
    assert curves(known, cost) == [
        Curve("none", "steps", ("none steps=10", "none steps=20", "none steps=30")),
        Curve("search", "search.candidates", ("search candidates=4", "search candidates=8")),
    ]


def test_a_grid_of_two_settings_makes_one_curve_per_value_of_the_other() -> None:
    grid = [(steps, guidance) for steps in (10, 20) for guidance in (1.0, 3.0)]
    known = [noted(f"{steps} {guidance}", "none", steps=steps, guidance_scale=guidance) for steps, guidance in grid]
    cost = {f"{steps} {guidance}": steps * (1.0 if guidance == 1.0 else 2.0) for steps, guidance in grid}
    found = curves(known, cost)
    assert [(curve.name, curve.over) for curve in found] == [
        ("none guidance_scale=1.0", "steps"),
        ("none guidance_scale=3.0", "steps"),
    ]


def test_what_does_not_grow_dearer_makes_no_curve() -> None:
    sizes = [noted("a", "none", height=64), noted("b", "none", height=128)]
    assert curves(sizes, {"a": 20.0, "b": 20.0}) == []
    flags = [noted("a", "none", compile=False), noted("b", "none", compile=True)]
    assert curves(flags, {"a": 20.0, "b": 40.0}) == []
    undrawn = [noted("a", "none", steps=1), noted("b", "none", steps=2)]
    assert curves(undrawn, {"a": 2.0}) == []


def test_a_rival_of_equal_cost_differs_from_the_first_chain_in_cost_alone() -> None:
    known = [
        noted("first", "none", steps=10, guidance_scale=3.0), noted("rich", "none", steps=40, guidance_scale=3.0),
        noted("other", "none", steps=20, guidance_scale=1.0),  # as dear, but another picture
        noted("search", "search", {"candidates": 4}, steps=10, guidance_scale=3.0),
        noted("wrap", "halo", steps=10, guidance_scale=3.0), noted("third", "halo", steps=20, guidance_scale=3.0),
    ]  # fmt: skip
    cost = {"first": 20.0, "rich": 80.0, "other": 80.0, "search": 82.0, "wrap": 20.0, "third": 40.0}
    assert equal_cost(known, cost) == {"search": "rich"}
    assert equal_cost(known, {**cost, "search": 85.0}) == {}
    assert equal_cost([], {}) == equal_cost(known[2:], cost) == {}


def test_a_row_is_compared_with_the_first_chain_where_all_that_both_have_is_the_same() -> None:
    known = [
        noted("a", "none", steps=10, guidance_scale=2.0), noted("b", "search", {"candidates": 2}, steps=20),
        noted("c", "none", steps=20, guidance_scale=2.0), noted("d", "search", steps=20, verifier=["clip"]),
        noted("e", "halo", steps=20, guidance_scale=3.0), noted("f", "none", steps=30),
    ]  # fmt: skip
    assert partners(known) == {"b": "c", "c": "a", "d": "c", "e": "a", "f": "a"}
    assert partners([]) == {}


def test_options_that_both_chains_have_are_settings_too() -> None:
    few: dict[str, object] = {"candidates": 2}
    many: dict[str, object] = {"candidates": 4}
    known = [noted("a", "search", few, steps=9), noted("b", "search", many, steps=9)]
    known += [("c", "halo,search", {"request": {"steps": 9}, "model": "m", "plugins": []})]
    known[2][2]["plugins"].append({"plugin": "search", "version": "2", "options": many})  # type: ignore[attr-defined]
    assert partners(known) == {"b": "a", "c": "b"}


def test_at_equal_cost_leaves_out_the_row_it_is_compared_with_anyway() -> None:
    known = [noted("a", "none", steps=10), noted("b", "none", steps=20), noted("c", "halo", steps=20)]
    cost = {"a": 10.0, "b": 20.0, "c": 20.0}
    assert partners(known)["c"] == "b" and equal_cost(known, cost) == {}


def test_a_version_names_no_weights_that_a_plugin_chooses_itself() -> None:
    def content(version: str) -> dict[str, object]:
        return {"request": {}, "plugins": [{"plugin": "net", "version": version, "options": {}}], "model": "m"}

    known: list[Noted] = [("a", "net", content("abc auto")), ("b", "net", content("def 0123"))]
    assert labels(known) == {"a": "net version=abc", "b": "net version=def 0123"}


def test_what_a_chain_leaves_out_is_no_part_of_its_name() -> None:
    known = [noted("a", "mix", {"with": None}), noted("b", "mix", {"with": "weak"})]
    assert labels(known) == {"a": "mix", "b": "mix with=weak"}
