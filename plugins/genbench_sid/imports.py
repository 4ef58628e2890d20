"""The published text-to-image students of SiD-LSG, by every tensor's name and shape: UNets of Stable Diffusion.

The tables stand here as numbers, so that a converted file is checked without a download. The files themselves are
pickles of whole modules (UT-Austin-PML/SiD-LSG): `python -m genbench_sid.convert` makes students of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from genbench.errors import UsageError
from genbench.studentfiles import Shapes, check_shapes

TIME = 1280
"""Width of the time embedding."""
Pair = tuple[int, int]

DOWN: tuple[tuple[Pair, ...], ...] = (
    ((320, 320), (320, 320)),
    ((320, 640), (640, 640)),
    ((640, 1280), (1280, 1280)),
    ((1280, 1280), (1280, 1280)),
)
"""Channels in and out of each residual block on the way down; all but the last stage attend and halve the size."""
MID: tuple[Pair, ...] = ((1280, 1280), (1280, 1280))
UP: tuple[tuple[Pair, ...], ...] = (
    ((2560, 1280), (2560, 1280), (2560, 1280)),
    ((2560, 1280), (2560, 1280), (1920, 1280)),
    ((1920, 640), (1280, 640), (960, 640)),
    ((960, 320), (640, 320), (640, 320)),
)
"""On the way up, with what comes across; all but the first stage attend, all but the last double the size."""


@dataclass(frozen=True)
class Layout:
    """One published layout: width of the text it attends to, and whether its attention enters by a linear layer."""

    name: str
    text: int
    linear: bool


LAYOUTS = (Layout("Stable Diffusion 1.5", 768, False), Layout("Stable Diffusion 2.1", 1024, True))


def published(shapes: Shapes, said: str) -> Layout | None:
    """The published layout that a network's tensors have, None for a network of another kind.

    Raises ModelError, which begins with `said`, where a UNet of this size lacks a tensor, or one is of another shape.
    """
    text = shapes.get("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", (0, 0))[-1]
    layout = next((each for each in LAYOUTS if each.text == text), None)
    if layout is None or shapes.get("conv_in.weight") != (320, 4, 3, 3):
        return None
    check_shapes(shapes, unet(layout), said, layout.name)
    return layout


def time_of(path: Path, given: float | None) -> float:
    """The level at which a student is asked, as t / 1000: what was given, else the t625 of a file's name."""
    found = re.search(r"_t(\d{1,3})(?=[_.])", path.name)
    if given is None and found is None:
        raise UsageError(f"the name of '{path}' has no _t625 that would tell the student's level; give --time 0.625")
    time = int(found[1]) / 1000 if given is None and found else float(given or 0)
    if not 0 < time <= 1:
        raise UsageError(f"--time {time} is t / 1000, above 0 and at most 1")
    return time


# --- the tables -----------------------------------------------------------------------------------------------------


def unet(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Every tensor of a published UNet, in no particular order."""
    return dict(_unet(layout))


def _unet(layout: Layout) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _biased("conv_in", 320, 4, 3, 3)
    yield from _biased("time_embedding.linear_1", TIME, 320)
    yield from _biased("time_embedding.linear_2", TIME, TIME)
    for stage, blocks in enumerate(DOWN):
        yield from _stage(f"down_blocks.{stage}", blocks, layout if stage < 3 else None)
        if stage < 3:
            yield from _biased(f"down_blocks.{stage}.downsamplers.0.conv", blocks[-1][1], blocks[-1][1], 3, 3)
    yield from _stage("mid_block", MID, None)
    yield from _attention("mid_block.attentions.0", MID[0][1], layout)
    for stage, blocks in enumerate(UP):
        yield from _stage(f"up_blocks.{stage}", blocks, layout if stage > 0 else None)
        if stage < 3:
            yield from _biased(f"up_blocks.{stage}.upsamplers.0.conv", blocks[-1][1], blocks[-1][1], 3, 3)
    yield from _biased("conv_norm_out", 320)
    yield from _biased("conv_out", 4, 320, 3, 3)


def _stage(name: str, blocks: tuple[Pair, ...], layout: Layout | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    for number, (into, out) in enumerate(blocks):
        yield from _resnet(f"{name}.resnets.{number}", into, out)
        if layout is not None:
            yield from _attention(f"{name}.attentions.{number}", out, layout)


def _resnet(name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _biased(f"{name}.norm1", into)
    yield from _biased(f"{name}.conv1", out, into, 3, 3)
    yield from _biased(f"{name}.time_emb_proj", out, TIME)
    yield from _biased(f"{name}.norm2", out)
    yield from _biased(f"{name}.conv2", out, out, 3, 3)
    if into != out:
        yield from _biased(f"{name}.conv_shortcut", out, into, 1, 1)


def _attention(name: str, width: int, layout: Layout) -> Iterator[tuple[str, tuple[int, ...]]]:
    kernel = () if layout.linear else (1, 1)
    yield from _biased(f"{name}.norm", width)
    for projection in ("proj_in", "proj_out"):
        yield from _biased(f"{name}.{projection}", width, width, *kernel)
    block = f"{name}.transformer_blocks.0"
    for attention, text in (("attn1", width), ("attn2", layout.text)):
        for letter, into in {"q": width, "k": text, "v": text}.items():
            yield f"{block}.{attention}.to_{letter}.weight", (width, into)
        yield from _biased(f"{block}.{attention}.to_out.0", width, width)
    for number in (1, 2, 3):
        yield from _biased(f"{block}.norm{number}", width)
    yield from _biased(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from _biased(f"{block}.ff.net.2", width, 4 * width)


def _biased(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A layer's weight and its bias, as wide as what comes out."""
    tensors: Mapping[str, tuple[int, ...]] = {"weight": shape, "bias": shape[:1]}
    yield from ((f"{name}.{part}", size) for part, size in tensors.items())
