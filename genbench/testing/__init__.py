"""Contract checks that a plugin's author runs.

`check_plugin` by hand, or in a test file

    from genbench.testing import contract_tests
    from genbench_halo import Halo

    test_contract = contract_tests(Halo, "step", strength=0.5)

Everything runs on the toy model (`genbench.backbones.toy`), on the CPU, in milliseconds. `toy_draw` makes latents with
plugins of your choice, for the tests that only you can write: the paper's formula in its plainest form.
"""

from __future__ import annotations

from genbench.testing.checks import check_plugin, checks_of, contract_tests
from genbench.testing.toyrun import toy_context, toy_draw, toy_images, toy_resources

__all__ = [
    "check_plugin",
    "checks_of",
    "contract_tests",
    "toy_context",
    "toy_draw",
    "toy_images",
    "toy_resources",
]
