"""Weighted sums and ranks of scorers that are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench import discovery
from genbench.backbones.toy import ToyScorer
from genbench.errors import PluginError, UsageError
from genbench.testing import check_plugin
from genbench_scorers import ensemble
from genbench_scorers.ensemble import Ensemble, ranks

BRIGHT = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from genbench.kinds import About

@dataclass(frozen=True)
class Bright:
    """Mean brightness."""

    times: float = 1.0  # factor

    about: ClassVar[About] = About("Mean brightness.")

    def score(self, *, images, prompts, rows=None):
        return self.times * images.mean((1, 2, 3))

    def version(self):
        return "weights 123"
'''


@pytest.fixture
def bright(work: Path) -> str:
    (work / "bright.py").write_text(BRIGHT)
    ensemble.members.cache_clear()
    return "./bright.py:Bright"


def pictures() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


PROMPTS = ["red", "red", "blue", "red"]


def parts() -> tuple[Tensor, Tensor]:
    return ToyScorer().score(images=pictures(), prompts=PROMPTS), pictures().mean((1, 2, 3))


def test_sum_weighs_the_scores(bright: str) -> None:
    toy, light = parts()
    found = Ensemble(("toy", bright), weights=(0.25, -2.0)).score(images=pictures(), prompts=PROMPTS)
    assert torch.allclose(found, 0.25 * toy - 2 * light)
    plain = Ensemble(("toy", bright)).score(images=pictures(), prompts=PROMPTS)
    assert torch.allclose(plain, (toy + light) / 2)


def test_rank_is_the_mean_share_of_others_beaten(bright: str) -> None:
    images, prompts = pictures(), ["red"] * 4
    toy, light = ToyScorer().score(images=images, prompts=prompts), images.mean((1, 2, 3))
    found = Ensemble(("toy", bright), rule="rank", weights=(0.75, 0.25)).score(images=images, prompts=prompts)
    for i in range(4):
        beaten = [sum(float(part[i] > part[j]) for j in range(4) if j != i) / 3 for part in (toy, light)]
        assert float(found[i]) == pytest.approx(0.75 * beaten[0] + 0.25 * beaten[1])


def test_ties_share_their_rank() -> None:
    assert ranks(torch.tensor([1.0, 2.0, 2.0, 3.0])).tolist() == pytest.approx([0.0, 0.5, 0.5, 1.0])
    assert ranks(torch.tensor([-torch.inf, 5.0, 5.0])).tolist() == pytest.approx([0.0, 0.75, 0.75])
    assert ranks(torch.tensor([7.0, 7.0])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("prompts", "says"), [(["red"], "got 1 of 1"), (["red", "red", "blue"], "got 3 of 2")])
def test_what_has_no_rank(bright: str, prompts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=f"{says}; use rule=sum"):
        Ensemble(("toy", bright), rule="rank").score(images=pictures()[: len(prompts)], prompts=prompts)


def test_options_reach_the_scorers(bright: str) -> None:
    toy, light = parts()
    asked = Ensemble(("toy", bright), options=(f"{bright}.times=3",))
    assert torch.allclose(asked.score(images=pictures(), prompts=PROMPTS), (toy + 3 * light) / 2)


def test_a_sum_has_gradients_where_its_scorers_have(bright: str) -> None:
    images = pictures().requires_grad_()
    (gradient,) = torch.autograd.grad(
        Ensemble(("toy", bright)).score(images=images, prompts=PROMPTS).sum(), images, allow_unused=True
    )
    assert gradient is not None and gradient.isfinite().all() and (gradient != 0).all()


def test_version_holds_the_versions_of_all(bright: str) -> None:
    said = Ensemble(("toy", bright)).version()
    built = discovery.build("ensemble", {"scorers": f"toy,{bright}"}, ("scorer",))
    assert "toy " in said and "weights 123" in said and said in built.fingerprint


def test_contract(bright: str) -> None:
    check_plugin(Ensemble, "scorer", scorers=("toy", bright), weights=(1.0, 2.0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scorers": ("toy",)}, "two or more other scorers"),
        ({"scorers": ("toy", "toy")}, "each once"),
        ({"scorers": ("toy", "ensemble")}, "other scorers"),
        ({"scorers": ("toy", "clip"), "weights": (1.0,)}, "1 numbers for 2 scorers"),
        ({"scorers": ("toy", "clip"), "options": ("model=x",)}, "NAME.OPTION=VALUE, NAME one of toy, clip"),
        ({"scorers": ("toy", "clip"), "options": ("hpsv2.batch=1",)}, "NAME one of toy, clip"),
    ],
)
def test_what_is_refused(options: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        discovery.build("ensemble", options, ("scorer",))


def test_an_unknown_scorer_is_named() -> None:
    with pytest.raises(PluginError, match="no scorer 'hpsv3'; did you mean 'hpsv2'"):
        Ensemble(("toy", "hpsv3")).version()
