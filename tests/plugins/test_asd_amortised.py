"""Amortised ASD: the generator, its file, its training, and answers at once (arXiv:2407.02040, sec. 4)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genbench.cli import main
from genbench.errors import GenbenchError
from genbench.generation import generate
from genbench.scenes.files import read_gaussians
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.prompting import Texts
from genbench.scenes.scores import Sight
from genbench.scenes.starts import sphere
from genbench.training.job import planned, train
from genbench_asd import ASD
from genbench_asd.generator import FILE, PARTS, Shape, TextToGaussians, waves
from tests.scenes.gaussian_prior import SHAPE, prior

COLOURS = ("red", "green", "blue")
SMALL = {"asd.batch": 2, "asd.count": 30, "asd.width": 16, "asd.depth": 2, "asd.warmup": 0, "asd.look_every": 2}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(COLOURS))
    return path


@pytest.fixture
def trained(tmp_path: Path, prompts: Path) -> Path:
    return made(tmp_path / "run", prompts)


def made(run: Path, file: Path, **words: object) -> Path:
    told = {"plugin": "asd", "model": "toy", "prompts": file, "run": run, "asd.updates": 4, **SMALL, **words}
    return train({name: str(value) for name, value in told.items() if value is not None})


# --- the method -----------------------------------------------------------------------------------------------------


def test_one_network_learns_eight_prompts_of_an_exact_prior() -> None:
    """Data N(m_y, s^2 I), eight means; without guidance, which would push on beyond them, answers are the means."""
    means, network = torch.linspace(-2, 2, 8, dtype=torch.float64), torch.nn.Linear(8, 4 * 8 * 8).double()
    adam, over, asd = torch.optim.Adam(network.parameters(), lr=0.05), prior(deviation=0.3), ASD()
    for step in range(200):
        z = network(torch.eye(8, dtype=torch.float64)).view(8, *SHAPE)
        told, nothing = ({"mean": mean.view(8, 1, 1, 1)} for mean in (means, torch.zeros_like(means)))
        generator = torch.Generator().manual_seed(step)
        sight = Sight(over, z.detach(), Texts(told, nothing, nothing), 1.0, step / 200, generator)
        adam.zero_grad()
        (z * asd.direction(sight)).sum().backward()
        adam.step()
    answers = network(torch.eye(8, dtype=torch.float64)).detach()
    torch.testing.assert_close(answers.mean(1), means, atol=0.05, rtol=0)
    assert (answers.mean(1)[:, None] - means).abs().argmin(1).tolist() == list(range(8))


# --- the generator --------------------------------------------------------------------------------------------------


def test_it_begins_as_the_ball_of_a_scene_that_is_optimised() -> None:
    network = TextToGaussians(Shape(text=5, count=20))
    ball = sphere(20, 0.5, torch.Generator().manual_seed(0))
    for scene in network(torch.randn(2, 3, 5)):
        for name, value in ball.parameters().items():
            assert torch.equal(scene.parameters()[name], value), name


def bent(**shape: int) -> TextToGaussians:
    """A generator whose last layers are not zero."""
    torch.manual_seed(0)
    network = TextToGaussians(Shape(text=5, count=20, **shape))
    for last in (network.head, network.films):
        torch.nn.init.normal_(last.weight, std=0.05)
    return network


def test_scenes_of_a_batch_are_those_of_each_prompt() -> None:
    network, text = bent().double(), torch.randn(3, 4, 5, dtype=torch.float64)
    together, alone = network(text), [network(text[i : i + 1])[0] for i in range(3)]
    for one, other in zip(together, alone, strict=True):
        for name, value in one.parameters().items():
            torch.testing.assert_close(value, other.parameters()[name], atol=1e-6, rtol=0)
    assert not torch.equal(together[0].means, together[1].means)


def test_every_part_of_it_has_a_gradient() -> None:
    network = bent()
    sum(value.square().sum() for scene in network(torch.randn(2, 4, 5)) for value in values(scene)).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def values(scene: Gaussians) -> list[torch.Tensor]:
    return [value for name, value in scene.parameters().items() if name != "sh_rest"]


def test_gaussians_stay_within_reach() -> None:
    network = bent()
    scene = network.gaussians(1e3 * torch.randn(20, sum(PARTS.values())))
    assert (scene.means - network.start.means).abs().max() <= 0.5
    assert (scene.scales - network.start.scales).abs().max() <= 2


def test_waves_are_sines_in_octaves() -> None:
    told = waves(torch.tensor([[1.0, 0.5, 0.0]]))[0]
    assert told.shape == (24,)
    torch.testing.assert_close(told[:3], torch.tensor([1.0, 0.5**0.5, 0.0]))
    torch.testing.assert_close(told[3:6], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


# --- training -------------------------------------------------------------------------------------------------------


def test_a_training_leaves_what_a_run_answers_with(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.name == FILE and (trained.parent / "README.md").exists()
    assert sorted(each.name for each in (trained.parent / "samples").iterdir()) == [
        f"asd-{step:06d}.png" for step in (0, 2, 4)
    ]
    words = ["plugin=asd", f"asd.weights={trained}", "asd.frames=8", "asd.size=32", "model=toy", "prompt=red"]
    assert main(["run", *words, f"out={tmp_path / 'out'}"]) == 0
    (record,) = (tmp_path / "out").glob("*/*/run.json")
    assert len(read_gaussians(record.parent / "scene.ply")) == 30
    assert "0 network evaluations" in capsys.readouterr().out


def test_prompts_get_scenes_of_their_own(trained: Path) -> None:
    def scene(prompt: str, weights: Path) -> Gaussians:
        options = {"asd": {"weights": str(weights), "frames": 8, "size": 32}}
        (picture,) = generate(plugin="asd", model="toy", prompt=prompt, options=options)
        return picture.scene.representation.gaussians  # type: ignore[union-attr]

    red, again, blue = (scene(prompt, trained) for prompt in ("red", "red", "blue"))
    assert torch.equal(red.sh0, again.sh0) and not torch.equal(red.sh0, blue.sh0)
    folder = scene("red", trained.parent)
    assert torch.equal(folder.means, red.means)


def test_a_stopped_training_goes_on_in_the_same_bits(trained: Path, tmp_path: Path, prompts: Path) -> None:
    from genbench.training import optimise

    run, save = tmp_path / "stopped", optimise.Training.save

    def stopping(training: optimise.Training, step: int) -> None:
        save(training, step)

    whole = optimise.Training.run
    optimise.Training.run = lambda training, until=None: whole(training, 2)  # type: ignore[method-assign]
    try:
        made(run, prompts)
    finally:
        optimise.Training.run = whole  # type: ignore[method-assign]
    assert (run / FILE).read_bytes() != trained.read_bytes()
    assert made(run, prompts, resume=True).read_bytes() == trained.read_bytes()


def test_it_says_what_it_takes(prompts: Path) -> None:
    told = planned({"plugin": "asd", "model": "toy", "prompts": str(prompts), **SMALL})
    assert told["evaluations an update"] == 3 * SMALL["asd.batch"]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"prompts": None}, "asd trains on a model and prompts; give prompts=FILE"),
        ({"reward": "solids-clip"}, "it follows the model alone"),
        ({"asd.patience": 1}, "asd.patience= waits for a held-out score"),
        ({"asd.batch": 4}, "asd.batch=4 prompts of an update are more than there are"),
        ({"asd.engine": "gsplat"}, "draws on a CUDA device, not on cpu"),
        ({"asd.fovy_deg": "9,1"}, "fovy_deg=9,1 is no range"),
    ],
)
def test_a_training_that_cannot_be(tmp_path: Path, prompts: Path, words: dict[str, object], message: str) -> None:
    with pytest.raises(GenbenchError, match=message):
        made(tmp_path / "run", prompts, **words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "auto"}, "no generator comes with asd for model=toy; train one: genbench train plugin=asd"),
        ({"weights": "nowhere"}, "asd.weights=nowhere is no file"),
        ({"iterations": 7}, "asd.iterations= is about optimising a scene"),
        ({"plus_ratio": 0.2}, "asd.plus_ratio= is about optimising a scene"),
    ],
)
def test_an_answer_that_cannot_be(trained: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(GenbenchError, match=message):
        generate(plugin="asd", model="toy", prompt="red", options={"asd": {"weights": str(trained), **options}})


def test_files_that_are_no_generator(trained: Path, tmp_path: Path) -> None:
    pickle, other = tmp_path / "some.pt", tmp_path / "other.safetensors"
    pickle.write_bytes(b"x")
    save_file({"a": torch.zeros(1)}, other)
    for path, message in ((pickle, "is no generator"), (other, "holds no generator of scenes")):
        with pytest.raises(GenbenchError, match=message):
            ASD(weights=str(path)).check("toy", "toy")
    with pytest.raises(GenbenchError, match="was trained for model=toy, not for model=solids"):
        ASD(weights=str(trained)).check("solids", "sd")
