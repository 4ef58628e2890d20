"""What holds for plugins that are chosen by their own word: source, scorer, encoder, metric, trainer and scene."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench.backbones.toy import ToyModel, ToyScorer
from genbench.kinds import SceneJob, TrainJob
from genbench.request import schema
from genbench.testing.case import Case, Check
from genbench.testing.toyrun import toy_context, toy_draw, toy_images, toy_resources

PROMPTS = ("red", "blue", "green")
SEEDS = (21, 22, 23)
ROUNDING = 1e-4


def _images() -> Tensor:
    return toy_images(SEEDS, 32)


# --- source -------------------------------------------------------------------------------------------------------


def opens_a_model(case: Case) -> None:
    """`open()` returns an existing diffusers folder, or a model that draws finite pictures."""
    opened = case.build().open()
    if isinstance(opened, Path):
        case.require(
            (opened / "model_index.json").is_file(), f"open() gives {opened.name}, which is no diffusers folder"
        )
        return
    with torch.no_grad():
        case.require(
            torch.isfinite(toy_draw(model=opened)).all(), "the model that open() gives draws no finite picture"
        )


def recommends_request_fields(case: Case) -> None:
    """`recommended` names fields of a request."""
    unknown = set(case.build().recommended) - set(schema())
    case.require(not unknown, f"recommended names {sorted(unknown)}, which are no request fields")


# --- scorer -------------------------------------------------------------------------------------------------------


def scores_each_picture(case: Case) -> None:
    """(b,) finite floats, not all alike, the same twice; pictures are not written to."""
    scorer, images = case.build(), _images()
    before = images.clone()
    with torch.no_grad():
        scores = scorer.score(images=images, prompts=PROMPTS)
        case.equal(scorer.score(images=images, prompts=PROMPTS), scores, "the same pictures score differently")
    case.require(scores.shape == (len(PROMPTS),), f"score() gives {tuple(scores.shape)} for {len(PROMPTS)} pictures")
    case.require(scores.is_floating_point() and torch.isfinite(scores).all(), "scores have to be finite floats")
    case.require(len(set(scores.tolist())) > 1, "it gives every picture the same score")
    case.equal(images, before, "score() changed the pictures in place")


def score_does_not_depend_on_the_batch(case: Case) -> None:
    """Three pictures together score as each alone."""
    scorer, images = case.build(), _images()
    with torch.no_grad():
        together = scorer.score(images=images, prompts=PROMPTS)
        alone = [scorer.score(images=images[i : i + 1], prompts=PROMPTS[i : i + 1]) for i in range(len(images))]
    case.equal(together, torch.cat(alone), "a score depends on its batch", ROUNDING)


def scores_with_and_without_gradients(case: Case) -> None:
    """Under gradients the score is the same; where it has a gradient, that is finite."""
    scorer, images = case.build(), _images()
    with torch.no_grad():
        plain = scorer.score(images=images, prompts=PROMPTS)
    leaf = images.requires_grad_()
    scores = scorer.score(images=leaf, prompts=PROMPTS)
    case.equal(scores.detach(), plain, "the score differs when gradients are on", ROUNDING)
    if scores.requires_grad:
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        case.require(torch.isfinite(gradient).all(), "the gradient of the score is not finite")


# --- encoder and metric -------------------------------------------------------------------------------------------


def embeds_row_by_row(case: Case) -> None:
    """Pictures (n, d), texts (n, d) of the same d, finite, each row from its own input alone."""
    encoder, images = case.build(), _images()
    before = images.clone()
    with torch.no_grad():
        of_images, of_texts = encoder.embed_images(images), encoder.embed_texts(PROMPTS)
        alone = torch.cat([encoder.embed_images(image[None]) for image in images])
    case.require(of_images.ndim == 2 and len(of_images) == len(images), f"embed_images gives {tuple(of_images.shape)}")
    case.require(of_texts.shape == of_images.shape, f"texts are {tuple(of_texts.shape)}, not {tuple(of_images.shape)}")
    case.require(torch.isfinite(of_images).all() and torch.isfinite(of_texts).all(), "an embedding is not finite")
    case.equal(of_images, alone, "an embedding depends on its batch", ROUNDING)
    case.equal(images, before, "embed_images changed the pictures in place")


def values_a_set(case: Case) -> None:
    """A finite float that depends on the features and not on their order; features are not written to."""
    metric = case.build()
    features = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    reference = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)) + 0.5
    before, value = features.clone(), metric.value(features.clone(), reference)
    case.require(isinstance(value, float) and abs(value) < float("inf"), f"value() gives {value!r}, not a finite float")
    case.require(abs(metric.value(features.flip(0), reference) - value) <= 1e-3 * max(1, abs(value)), "order matters")
    case.require(metric.value(features * 3 + 1, reference) != value, "it gives every set the same value")
    metric.value(features, reference)
    case.equal(features, before, "value() changed the features in place")


# --- trainer and scene --------------------------------------------------------------------------------------------


def trains_into_its_folder(case: Case) -> None:
    """`train(job)` returns an existing path inside the job's folder, also when it resumes."""
    with tempfile.TemporaryDirectory() as folder:
        for resume in (False, True):
            made = case.build().train(_job(Path(folder), resume))
            case.require(isinstance(made, Path) and made.exists(), f"train() gives {made!r}, which does not exist")
            case.require(made.resolve().is_relative_to(Path(folder).resolve()), "train() wrote outside its folder")


def same_seed_trains_the_same(case: Case) -> None:
    """Two trainings with one seed write the same bytes."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        torch.manual_seed(1)
        first = case.build().train(_job(Path(one)))
        torch.manual_seed(2)
        second = case.build().train(_job(Path(two)))
        case.require(_digest(first) == _digest(second), "the same seed trains to other weights")


def _job(run: Path, resume: bool = False) -> TrainJob:
    return TrainJob(run, toy_resources(), ToyModel(), PROMPTS, ToyScorer(), seed=3, resume=resume)


def saves_a_scene(case: Case) -> None:
    """`optimize(job)` gives a scene whose `save(folder)` writes files there, the same ones for the same seed."""
    digests: list[Any] = []
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(number)
            scene = case.build().optimize(SceneJob(Path(folder), toy_context((3,), prompts=("red",)), "red", 3))
            files = [Path(path) for path in scene.save(Path(folder))]
            case.require(files and all(path.is_file() for path in files), "save() wrote no file")
            digests.append([_digest(path) for path in files])
    case.require(digests[0] == digests[1], "the same seed gives another scene")


def _digest(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


CHECKS: Mapping[str, tuple[Check, ...]] = {
    "source": (opens_a_model, recommends_request_fields),
    "scorer": (scores_each_picture, score_does_not_depend_on_the_batch, scores_with_and_without_gradients),
    "encoder": (embeds_row_by_row,),
    "metric": (values_a_set,),
    "trainer": (trains_into_its_folder, same_seed_trains_the_same),
    "scene": (saves_a_scene,),
}
