"""The checks of each kind, collected: `check_plugin` runs them, `contract_tests` makes pytest tests of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genbench.errors import UsageError, did_you_mean
from genbench.kinds import GROUPS, RUN_KINDS
from genbench.testing import asked, general, runs
from genbench.testing.case import Case, Check

CHECKS: dict[str, tuple[Check, ...]] = {
    **{kind: general.CHECKS + runs.CHECKS[kind] for kind in RUN_KINDS if kind != "scene"},
    **{kind: general.CHECKS + checks for kind, checks in asked.CHECKS.items()},
}


def checks_of(kind: str) -> tuple[Check, ...]:
    """Return the checks of one kind; each takes a `Case` and raises AssertionError. Raises UsageError."""
    if kind not in CHECKS:
        raise UsageError(f"there is no kind '{kind}'{did_you_mean(kind, [k.name for k in GROUPS])}")
    return CHECKS[kind]


def check_plugin(cls: type, kind: str, /, **options: object) -> None:
    """Run every contract check of this kind on the toy model. Raises AssertionError that says what is broken.

    `options` are the plugin's, for all checks; give those at which it changes something, where its defaults do not.
    """
    for check in checks_of(kind):
        check(Case(cls, kind, options))


def contract_tests(cls: type, kind: str, /, **options: object) -> Callable[[Check], None]:
    """Return a pytest test with one case per check; bind it to a name that pytest collects, as `test_contract`."""
    import pytest

    def contract(check: Check) -> None:
        check(Case(cls, kind, options))

    mark: Any = pytest.mark.parametrize("check", checks_of(kind), ids=lambda check: check.__name__)
    return mark(contract)
