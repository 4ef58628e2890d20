"""The values that travel through a run: predictions, states, conditioning, and the table of kinds."""

import subprocess
import sys

import pytest
import torch

from genbench import kinds, streams
from genbench.errors import UsageError
from genbench.kinds import Conditioning, Level, Prediction, State

LEVEL = Level(torch.tensor(500.0), torch.tensor(0.8), torch.tensor(0.6))


@pytest.mark.parametrize("said", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_a_prediction_shows_every_view_of_the_same_point(said: str) -> None:
    x0, eps = torch.randn(2, 3, 4, 5)
    x = LEVEL.alpha * x0 + LEVEL.sigma * eps
    truth = Prediction(eps, x, LEVEL, "epsilon")
    prediction = Prediction(truth.to(said), x, LEVEL, said)
    for view, value in {"x0": x0, "eps": eps, "v": truth.v, "flow": eps - x0}.items():
        assert torch.allclose(getattr(prediction, view), value, atol=1e-5), view


def test_a_prediction_gives_its_own_output_without_a_detour() -> None:
    raw = torch.randn(2, 3)
    prediction = Prediction(raw, torch.randn(2, 3), LEVEL, "v_prediction")
    assert prediction.to("v_prediction") is raw
    assert prediction.x0 is prediction.x0


def state(rows: int) -> State:
    memory = {"history": [torch.arange(rows * 2.0).reshape(rows, 2), None], "order": 2, "scale": torch.tensor(3.0)}
    return State(torch.arange(rows * 3.0).reshape(rows, 3), 4, memory, streams.seeded(range(rows)))


def test_rows_select_and_repeat_everything_that_has_rows() -> None:
    picked = state(3).rows([2, 0, 2])
    assert picked.index == 4 and len(picked.rng) == 3
    assert torch.equal(picked.x, state(3).x[[2, 0, 2]])
    assert torch.equal(picked.memory["history"][0], state(3).memory["history"][0][[2, 0, 2]])
    assert picked.memory["history"][1] is None and picked.memory["order"] == 2
    assert float(picked.memory["scale"]) == 3.0
    assert torch.equal(picked.rng[0], picked.rng[2])


def test_fork_gives_repeats_their_own_streams() -> None:
    forked = state(2).fork([1, 1])
    assert torch.equal(forked.x[0], forked.x[1])
    assert not torch.equal(forked.rng[0], forked.rng[1])


def test_cat_undoes_rows() -> None:
    whole = state(3)
    joined = kinds.cat([whole.rows([0]), whole.rows([1, 2])])
    assert torch.equal(joined.x, whole.x) and len(joined.rng) == 3
    assert torch.equal(joined.memory["history"][0], whole.memory["history"][0])
    assert float(joined.memory["scale"]) == 3.0


def test_states_of_different_steps_are_not_joined() -> None:
    with pytest.raises(UsageError, match="different steps"):
        kinds.cat([state(1), state(1).replace(index=5)])


def test_conditioning_rows() -> None:
    part = {"text": torch.arange(6.0).reshape(3, 2)}
    both = Conditioning(part, part).rows([2, 2])
    assert torch.equal(both.positive["text"], part["text"][[2, 2]])
    assert both.negative is not None and torch.equal(both.negative["text"], part["text"][[2, 2]])
    assert Conditioning(part).rows([0]).negative is None


def test_every_kind_has_a_protocol_with_its_method() -> None:
    assert [kind.name for kind in kinds.GROUPS] == list(kinds.PROTOCOLS)
    for kind in kinds.GROUPS:
        assert hasattr(kinds.PROTOCOLS[kind.name], kind.method), kind


def test_the_contract_imports_no_torch() -> None:
    code = "import sys, genbench, genbench.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
