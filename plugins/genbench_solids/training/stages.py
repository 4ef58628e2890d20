"""The stages by name, in an order in which each finds what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from genbench_solids.training import data, export, pixels, readers, text, unet, vae, vision
from genbench_solids.training.recipe import Recipe

STAGES: Mapping[str, Callable[[Recipe], object]] = {
    "render": data.render_in_processes,
    "text": text.train,
    "vae": vae.train,
    "reader": partial(readers.train, split="reader"),
    "verifier": partial(readers.train, split="verifier"),
    "unet": unet.train,
    "reader-hard": partial(readers.harden, split="reader"),
    "verifier-hard": partial(readers.harden, split="verifier"),
    "clip": vision.train,
    "decoder": vae.refine,
    "export": export.export,
}
MORE: Mapping[str, Callable[[Recipe], object]] = {"pixels": pixels.make}
"""Stages of models of their own; only by name."""
