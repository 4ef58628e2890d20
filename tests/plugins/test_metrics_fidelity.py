"""Set metrics and the Inception network against torch-fidelity's, which downloads nothing here: random features, and
random weights in its own layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genbench_metrics import Cmmd, Frechet, Kid, Precision, Recall, Vendi
from genbench_scorers import inception
from genbench_scorers.inception import Inception
from tests.plugins.scorers_inception import inception_state

fidelity = pytest.importorskip("torch_fidelity")

from torch_fidelity import metric_fid, metric_kid, metric_prc  # noqa: E402
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402


def sets(n: int = 120, m: int = 150, d: int = 24) -> tuple[Tensor, Tensor]:
    """Correlated features (n, d), (m, d) of unlike means and covariances."""
    draw = torch.Generator().manual_seed(5)
    mix = torch.randn(2, d, d, generator=draw, dtype=torch.float64) / d**0.5
    x, y = (torch.randn(count, d, generator=draw, dtype=torch.float64) for count in (n, m))
    return x @ mix[0] + 0.3, y @ mix[1]


def test_frechet_is_torch_fidelitys() -> None:
    x, y = sets()
    statistics = [metric_fid.fid_features_to_statistics(each) for each in (x, y)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert Frechet().value(x, y) == pytest.approx(expected[metric_fid.KEY_METRIC_FID], rel=1e-9)


def test_kid_is_torch_fidelitys_on_a_subset_that_is_the_whole_set() -> None:
    x, y = sets(100, 100)
    expected = metric_kid.kid_features_to_metric(x, y, kid_subsets=3, kid_subset_size=100, verbose=False)
    assert Kid().value(x, y) == pytest.approx(expected[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-9)
    assert expected[metric_kid.KEY_METRIC_KID_STD] < 1e-12


def test_cmmd_is_torch_fidelitys_biased_mmd_with_a_gaussian_kernel() -> None:
    x, y = (torch.nn.functional.normalize(each, dim=1).numpy() for each in sets(100, 100))
    distances = [((a[:, None] - b[None]) ** 2).sum(-1) for a, b in ((x, x), (x, y), (y, y))]
    kernels = [np.exp(-each / (2 * 10.0**2)) for each in distances]
    expected = 1000 * metric_kid.mmd2(*kernels, mmd_est="biased")
    assert Cmmd().value(*sets(100, 100)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_are_torch_fidelitys(neighbours: int) -> None:
    x, y = sets(d=3)
    words = {"prc_neighborhood": neighbours, "prc_batch_size": 64, "save_cpu_ram": False, "verbose": False}
    expected = metric_prc.prc_features_to_metric(x, y, **words)
    assert Precision(neighbours).value(x, y) == pytest.approx(expected[metric_prc.KEY_METRIC_PRECISION], abs=1e-6)
    assert Recall(neighbours).value(x, y) == pytest.approx(expected[metric_prc.KEY_METRIC_RECALL], abs=1e-6)
    assert all(0 < expected[key] < 1 for key in (metric_prc.KEY_METRIC_PRECISION, metric_prc.KEY_METRIC_RECALL))


@pytest.mark.parametrize(("n", "d"), [(7, 20), (40, 6)])
def test_vendi_is_the_entropy_of_the_whole_similarity_matrix(n: int, d: int) -> None:
    """In numpy, from all n x n cosines, also where features are fewer than pictures."""
    x = sets(n, 2, d)[0].numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    shares = np.linalg.eigvals(unit @ unit.T / n).real
    shares = shares[shares > 1e-14]
    assert Vendi().value(torch.tensor(x)) == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())), rel=1e-9)


def test_inception_is_torch_fidelitys_from_the_resize_on(tmp_path: Path) -> None:
    file = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(inception_state(3), file)
    theirs = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(file))
    bytes_of = torch.randint(0, 256, (2, 3, 48, 80), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    torch.save(theirs.state_dict(), file)  # as that network itself writes it
    with torch.no_grad():
        (expected,), found = theirs(bytes_of), Inception(str(file)).embed_images(bytes_of.float() / 255)
    inception.opened.cache_clear()
    assert found.shape == (2, 2048)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(found[0], found[1], atol=1e-3 * float(expected.abs().max()))
