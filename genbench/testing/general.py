"""What holds for a plugin of any kind."""

from __future__ import annotations

import dataclasses
import pickle

from genbench import discovery, fields, kinds, listing
from genbench.errors import PluginError, UsageError
from genbench.testing.case import Case, Check


def has_its_methods(case: Case) -> None:
    """A frozen dataclass with `about` and every method of its kind, written for this contract."""
    try:
        discovery.check_class(case.cls, case.kind, case.cls.__name__, case.cls.__name__)
    except PluginError as error:
        raise AssertionError(str(error)) from error


def says_what_it_is(case: Case) -> None:
    """`about` has a summary; every option has one line of help."""
    case.require(case.about.summary, "about.summary is empty; say in one line what it does")
    case.require(case.about.contract == kinds.CONTRACT, f"about.contract is not {kinds.CONTRACT}")
    for each in fields.described(case.cls):
        case.require(each.help, f"option '{each.option.name}' has no help; end its line with a comment")


def is_frozen_and_picklable(case: Case) -> None:
    """Options cannot change after construction, and a worker process receives an equal object."""
    plugin = case.build()
    names = [field.name for field in dataclasses.fields(plugin)]
    try:
        setattr(plugin, names[0] if names else "anything", 0)
        raise AssertionError(f"{case.cls.__name__} is not frozen")
    except dataclasses.FrozenInstanceError:
        pass
    try:
        copied = pickle.loads(pickle.dumps(plugin))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise AssertionError(f"{case.cls.__name__} ({case.kind}): it cannot be pickled: {error}") from error
    case.require(copied == plugin, "it differs after pickling")


def is_built_from_text(case: Case) -> None:
    """Every option, written as on the command line, gives the same plugin; an unknown one is refused."""
    plugin = case.build()
    named = [option.name for option in fields.options_of(case.cls).values()]
    text = {name: listing.shown(getattr(plugin, name)) for name in named}
    case.require(case.build(**text) == plugin, f"it differs when built from text: {text}")
    try:
        case.build(no_such_option="1")
    except UsageError:
        return
    raise AssertionError(f"{case.cls.__name__} takes an unknown option")


CHECKS: tuple[Check, ...] = (has_its_methods, says_what_it_is, is_frozen_and_picklable, is_built_from_text)
