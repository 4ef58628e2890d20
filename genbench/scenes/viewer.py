"""A scene as one web page that needs no server and no network: its Gaussians as text inside, drawn by WebGL2.

The page holds the bytes of a `.splat` file and, of degree 1 to 3, the further harmonics as a byte each. Words after `#`
in its address set where it begins: azimuth_deg, elevation_deg, camera_distance, fovy_deg, spin, ground, plain.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from torch import Tensor

from genbench.files import write_whole
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.splat import prominence, splat_bytes
from genbench.scenes.views import Stand, framing

LIMIT = 500_000
"""Gaussians in one page; of more the most visible are taken. 43 bytes of page each, 60 more with degree 3."""


def write_viewer(
    path: Path,
    gaussians: Gaussians,
    title: str = "",
    stand: Stand | None = None,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    spin: bool = True,
    limit: int = LIMIT,
) -> None:
    """Write the page. `stand` None looks at the whole scene; `background` in [0, 1]; `limit` Gaussians at most.

    Raises SceneError for what cannot be drawn (`Gaussians.check`), OutputError where the file cannot be written.
    """
    gaussians.check()
    write_whole(path, page(gaussians, title, stand, background, spin, limit).encode())


def page(
    gaussians: Gaussians,
    title: str = "",
    stand: Stand | None = None,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    spin: bool = True,
    limit: int = LIMIT,
) -> str:
    """The page's text."""
    every = gaussians.detach().to("cpu")
    shown = every.rows(prominence(every).argsort(descending=True, stable=True)[:limit])
    harmonics, span = _bytes_of(shown.sh_rest)
    scene = {
        **asdict(stand or framing(shown)),
        "background": list(background),
        "spin": spin,
        "rest": shown.sh_rest.shape[1],
        "span": span,
        "splats": base64.b64encode(splat_bytes(shown)).decode(),
        "harmonics": base64.b64encode(harmonics).decode(),
    }
    part = f"the {limit:,} most visible of " if len(every) > limit else ""
    words = {
        "title": html.escape(title or "scene"),
        "subtitle": f"{part}{len(every):,} Gaussians",
        "scene": json.dumps(scene).replace("<", "\\u003c"),
    }
    template = files("genbench.scenes").joinpath("assets", "viewer.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: words[found[1]], template)


def _bytes_of(coefficients: Tensor) -> tuple[bytes, float]:
    """Numbers as bytes, 0 to 255 for -span to span, and the span."""
    span = float(coefficients.abs().max()) if coefficients.numel() else 0.0
    scaled = (coefficients / (span or 1.0) + 1) * 127.5
    return scaled.round().clamp(0, 255).byte().numpy().tobytes(), span
