"""The statistics of golden noise on noise whose statistics are known."""

from __future__ import annotations

import json

import pytest
import torch

from genbench_npnet.measure import main, statistics


def white(n: int = 400) -> torch.Tensor:
    return torch.randn(n, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_white_noise_is_white() -> None:
    told = statistics(white(), white())
    assert told["moved"] == 0 and told["std"] == pytest.approx(1, abs=0.01)
    assert all(abs(told[name]) < 0.02 for name in ("mean", "channel_mean", "excess_kurtosis", "right", "below"))


def test_what_is_not_white_shows() -> None:
    noise = white()
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None, None]
    assert statistics(noise + 0.5 * signs, noise)["channel_mean"] == pytest.approx(0.5, abs=0.01)
    assert statistics(noise + 0.5 * signs, noise)["moved"] == pytest.approx(0.5, abs=1e-4)
    assert statistics(noise + 0.3, noise)["mean"] == pytest.approx(0.3, abs=0.01)
    mixed = (noise + noise.roll(1, 3)) / 2**0.5  # each cell shares half its variance with its neighbour
    assert statistics(mixed, noise)["right"] == pytest.approx(0.5, abs=0.02)
    assert abs(statistics(mixed, noise)["below"]) < 0.02
    assert statistics(noise.sign(), noise)["excess_kurtosis"] == pytest.approx(-2, abs=0.01)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["model=toy", "prompt=red", "seeds=0..3", "plugin=redenoise"])
    told = json.loads(capsys.readouterr().out)
    assert told["plugin"] == "redenoise" and told["n"] == 4 and told["moved"] > 0
