"""What a run leaves behind: a folder of its own, pictures that say how they were made, and run.json.

    outputs/2026-11-22/153300-a-red-cube/0000-seed7.png, run.json

A picture carries two texts: `parameters` for other tools, and `genbench`, the complete resolved settings as JSON,
from which `genbench rerun` makes it again. Paths inside the user's home are written with `~`.
"""

from __future__ import annotations

import io
import json
import math
import platform
import re
import shutil
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, Protocol, cast

from genbench import files, infotext
from genbench.kinds import Scene
from genbench.prompts import Row
from genbench.request import Item, Resolved, request_fields

SCHEMA = 1
"""Version of the JSON under `genbench` and in run.json; it grows when a reader has to know."""
PACKAGES = ("genbench", "torch", "diffusers", "transformers", "numpy", "pillow")
LITERAL_KEYS = ("prompt", "negative_prompt")
VIEWS = "views.png"
"""The picture of a scene, which says how it was made."""
SECONDS_BETWEEN = 1.0
"""run.json is rewritten at most this often while pictures arrive, and at the end."""


class Finished(Protocol):
    """A finished picture, as `genbench.generation.Picture`: `pil` is its image, `batch` what it was sampled with."""

    @property
    def pil(self) -> Any: ...
    @property
    def item(self) -> Item: ...
    @property
    def resolved(self) -> Resolved: ...
    @property
    def nfe(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def batch(self) -> tuple[Item, ...]: ...
    @property
    def position(self) -> int: ...
    @property
    def score(self) -> float | None: ...
    @property
    def trace(self) -> tuple[Mapping[str, object], ...]: ...
    @property
    def scene(self) -> Scene | None: ...


@dataclass
class Run:
    """A run's folder. `environment` says on what it ran; `images` is one mapping per saved picture."""

    folder: Path
    resolved: Resolved
    verb: str = "run"
    environment: Mapping[str, object] = field(default_factory=dict[str, object])
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    images: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    began: datetime = field(default_factory=lambda: datetime.now().astimezone())
    written: float = -math.inf

    @classmethod
    def create(cls, resolved: Resolved, verb: str = "run") -> Run:
        """Make a folder that no other run has or gets, and its first run.json. Raises OutputError."""
        now = datetime.now().astimezone()
        day = Path(resolved.request.out).expanduser() / f"{now:%Y-%m-%d}"
        run = cls(files.new_folder(day, f"{now:%H%M%S}-{slug(resolved)}"), resolved, verb, began=now)
        run.write("running")
        return run

    @classmethod
    def reopen(cls, resolved: Resolved, folder: Path, record: Mapping[str, Any]) -> Run:
        """Take up the folder of a run that was stopped, with what it has saved."""
        run = cls(folder, resolved, str(record["verb"]), began=datetime.fromisoformat(record["began"]))
        run.images = [dict(image) for image in record["images"]]
        return run

    def save(self, made: Finished) -> Path:
        """Write one picture, or a scene's files, each whole or not at all; returns its path. Raises OutputError."""
        record = picture_record(made, self.environment)
        path = self.folder / f"{len(self.images):04d}-seed{made.item.seed}.png"
        written: list[Path] = []
        if made.scene is not None:
            path = self.place(made.item) / VIEWS
            written = list(made.scene.save(path.parent))
        files.write_whole(path, png(made.pil, picture_texts(record, made.resolved.request.metadata)))
        batch = [item.index for item in made.batch]
        extra = {"file": self._within(path), "row": made.item.as_row(), "batch": batch, "trace": made.trace}
        told = {"files": [self._within(each) for each in dict.fromkeys((*written, path))]} if written else {}
        self.images.append({**record["picture"], **extra, **told})
        if time.monotonic() - self.written >= SECONDS_BETWEEN:
            self.write("running")
        return written[0] if written else path

    def place(self, item: Item) -> Path:
        """The folder of a scene: the run's own, or one in it where the run has several."""
        folder = self.folder if self.resolved.single else self.folder / f"{item.index:04d}-seed{item.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the scene saved last, as their names in the folder; none of a picture."""
        last: Any = self.images[-1] if self.images else {}
        return tuple(last.get("files", ()))

    def _within(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def write(self, status: str) -> None:
        """Rewrite run.json in one piece. `status` is running, done, or why it stopped. Raises OutputError."""
        text = json.dumps(plain(self.record(status)), ensure_ascii=False, indent=1)
        files.write_whole(self.folder / "run.json", text.encode())
        self.written = time.monotonic()

    def record(self, status: str) -> dict[str, object]:
        """Return what run.json holds."""
        return {
            "schema": SCHEMA,
            "verb": self.verb,
            "status": status,
            "began": self.began.isoformat(timespec="seconds"),
            **resolved_record(self.resolved),
            "rows": self.resolved.rows,
            "environment": self.environment,
            "evaluations": sum(int(str(image["nfe"])) for image in self.images),
            "timings": self.timings,
            "images": self.images,
        }

    def discard(self) -> None:
        """Remove the folder of a run that made nothing, not even a part of a scene."""
        if not self.images and not any(file.is_file() for file in self.folder.rglob("*") if file.name != "run.json"):
            shutil.rmtree(self.folder, ignore_errors=True)


def slug(resolved: Resolved) -> str:
    """Return a short ASCII name for a run: the first words of its prompt, or its prompt file's name."""
    source, rows = resolved.request.prompts, resolved.rows or ({"prompt": resolved.request.prompt},)
    text = str(rows[0]["prompt"]) if source is None else "stdin" if source == "-" else Path(source).stem
    ascii_text = unicodedata.normalize("NFKD", text[:200]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:40].strip("-") or "pictures"


# --- what is said of a picture ------------------------------------------------------------------------------------


def resolved_record(resolved: Resolved) -> dict[str, object]:
    """Return request, plugins, options and origins as a record holds them."""
    return {
        "request": request_fields(resolved.request),
        "plugins": list(resolved.plugins),
        "options": resolved.options,
        "origins": resolved.origins,
    }


def picture_record(made: Finished, environment: Mapping[str, object]) -> dict[str, Any]:
    """Return everything that makes this picture again: what `genbench` holds."""
    item = made.item
    picture = {
        "index": item.index,
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "seed": item.seed,
        "nfe": made.nfe,
        "seconds": round(made.seconds, 3),
        "score": made.score,
        "candidates": candidates(made.trace) or None,
        **{name: chosen(made.trace)[name] for name in ("scores", "holdout") if name in chosen(made.trace)},
        "position": made.position,
    }
    request = replace(made.resolved.request, prompt="", prompts=None, seed=item.seed, seeds=None, num_images=None)
    alone = replace(made.resolved, request=request)
    batch: list[Row] = [each.as_row() for each in made.batch]
    traced = {"trace": made.trace} if made.trace else {}
    told = {**resolved_record(alone), "batch": batch, **traced, "environment": environment}
    return {"schema": SCHEMA, "picture": picture, **told}


def chosen(trace: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    """Return the row of the candidate that a search returned; empty where none is marked."""
    nothing: Mapping[str, object] = {}
    return next((row for row in trace if row.get("chosen")), nothing)


def candidates(trace: Sequence[Mapping[str, object]]) -> int:
    """Return how many pictures a search chose from: not what it judged unfinished, nor a winner drawn again."""
    return sum(1 for row in trace if not row.get("preview") and "again" not in row)


def judgement(picture: Mapping[str, Any], verifier: str | None) -> str:
    """Say how a searched picture was judged: `solids -0.02, holdout solids-exact 1`; or each verifier's."""
    alone: dict[str, object] = {str(verifier): picture["score"]} if picture.get("score") is not None else {}
    followed: Mapping[str, object] = picture.get("scores") or alone
    held: Mapping[str, object] = picture.get("holdout") or {}
    watched = {f"holdout {name}": value for name, value in held.items()}
    return ", ".join(f"{name} {_number(value)}" for name, value in {**followed, **watched}.items())


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def picture_texts(record: Mapping[str, Any], level: str) -> dict[str, str]:
    """Return the texts a PNG carries at `metadata=` none, basic (other tools' text) or full (also ours)."""
    texts = {} if level == "none" else {"parameters": parameters(record)}
    if level == "full":
        texts["genbench"] = json.dumps(plain(record), ensure_ascii=False)
    return texts


def parameters(record: Mapping[str, Any]) -> str:
    """Return the `parameters` text of a picture's record."""
    picture, request, environment = record["picture"], record["request"], record["environment"]
    sampler, schedule = infotext.sampler_labels(str(request["sampler"] or environment.get("sampler", "")))
    settings = {
        "Steps": request["steps"],
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{request['guidance_scale']:g}" if request["guidance_scale"] is not None else None,
        "Seed": picture["seed"],
        "Size": f"{request['width']}x{request['height']}" if request["width"] and request["height"] else None,
        "Model hash": str(environment.get("model_hash") or "")[:10],
        "Model": PurePath(request["model"]).name,
        "Plugins": ",".join(PurePath(word).name for word in record["plugins"]),
        "RNG": "CPU",
        "Version": f"genbench {version('genbench')}",
    }
    return infotext.infotext(picture["prompt"], picture["negative_prompt"], settings)


def png(image: Any, texts: Mapping[str, str]) -> bytes:
    """Encode a PIL image as PNG with its texts (iTXt, UTF-8)."""
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", pnginfo=info)
    return encoded.getvalue()


def versions() -> dict[str, str]:
    """Return the versions of what shapes a picture, and of Python."""
    found = {name: version(name) for name in PACKAGES}
    return {**{name: text for name, text in found.items() if text}, "python": platform.python_version()}


def version(distribution: str) -> str:
    """Return an installed distribution's version, empty if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def plain(value: Any, key: str = "") -> Any:
    """Return a value as JSON can hold it: home paths as `~`, numbers that are not finite as text, tensors as lists.

    Prompts stay as they are, whatever they look like.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each, str(name)) for name, each in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, key) for each in cast(Sequence[object], value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (str, PurePath)):
        return str(value) if key in LITERAL_KEYS else without_home(str(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    listed: Any = value.tolist() if hasattr(value, "tolist") else str(value)
    count = len(cast(list[object], listed)) if isinstance(listed, list) else 0
    return plain(listed) if count < 64 else f"{count} values"


def without_home(text: str) -> str:
    """Return the text with the user's home folder written as `~`."""
    home = str(Path.home())
    return text if len(home) < 2 else re.sub(rf"(?<![\w.~-]){re.escape(home)}(?=$|[/\\:,'\"\s)])", "~", text)
