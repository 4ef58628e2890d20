"""Pictures that a discriminator takes for real, as clean latents with their prompts.

The teacher's own, drawn once and kept on the disk, or a folder of pictures with `metadata.jsonl` as Hugging Face's
imagefolder has it: a line {"file_name": ..., "text": ...} for each (`prompt` is the same word as `text`).
"""

# pyright: basic
# safetensors and numpy carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from genbench.errors import UsageError
from genbench.kinds import Model
from genbench.training.checkpoints import save_tensors
from genbench.training.rollouts import Rollout

CHUNK = 64
METADATA = "metadata.jsonl"


class Reals(Protocol):
    """Numbered latents. `count` says how many there are."""

    @property
    def count(self) -> int: ...

    def drawn(self, index: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Latents (b, ...) by number in [0, count), on the CPU, and their prompts."""
        ...


@dataclass
class TeacherReals:
    """`count` latents of the teacher, one for each prompt row in turn, at the settings of `rollout`.

    They lie in `folder` in files of 64, each a function of its number, so that drawing them goes on after a kill.
    """

    folder: Path
    rollout: Rollout
    rows: Sequence[Mapping[str, object]]
    count: int
    seed: int = 0
    latents: Tensor | None = field(default=None, repr=False)

    def drawn(self, index: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Draws what is missing first."""
        if self.latents is None:
            chunks = range(0, self.count, CHUNK)
            known = all(self._path(first).exists() for first in chunks)
            told = tqdm(chunks, "the teacher's pictures", disable=True if known else None, file=sys.stderr)
            self.latents = torch.cat([self._chunk(first) for first in told])
        return self.latents[list(index)], [self._prompt(number) for number in index]

    def _prompt(self, number: int) -> str:
        return str(self.rows[number % len(self.rows)]["prompt"])

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:06d}.safetensors"

    def _chunk(self, first: int) -> Tensor:
        path, numbers = self._path(first), range(first, min(first + CHUNK, self.count))
        if not path.exists():
            prompts, seeds = [self._prompt(n) for n in numbers], [self.seed + n for n in numbers]
            save_tensors({"latents": self.rollout.latents(prompts, seeds).cpu()}, path, {})
        found: Mapping[str, Any] = load_file(path)
        return found["latents"][: len(numbers)]


@dataclass(frozen=True)
class FolderReals:
    """Pictures of a folder, encoded when they are asked for: the middle square, scaled to the model's size."""

    model: Model
    files: tuple[Path, ...]
    prompts: tuple[str, ...]
    height: int
    width: int

    @property
    def count(self) -> int:
        return len(self.files)

    @torch.no_grad()
    def drawn(self, index: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Opens and encodes the files."""
        images = torch.stack([picture(self.files[number], self.height, self.width) for number in index])
        images = images.to(self.model.device, self.model.dtype)
        return self.model.encode_image(images).float().cpu(), [self.prompts[number] for number in index]


def captioned(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files and captions of a folder. Raises UsageError where there is no metadata, or a line of it is wrong."""
    path = folder / METADATA
    if not path.is_file():
        raise UsageError(f"exemplars={folder} has no {METADATA}; a discriminator needs pictures with their prompts")
    files: list[Path] = []
    prompts: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            files.append(folder / row["file_name"])
            prompts.append(str(row["prompt"] if "prompt" in row else row["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f'{path}, line {number} is not {{"file_name": ..., "text": ...}}') from error
        if not files[-1].is_file():
            raise UsageError(f"{path}, line {number}: {files[-1].name} is not there")
    if not files:
        raise UsageError(f"{path} names no picture")
    return tuple(files), tuple(prompts)


def picture(path: Path, height: int, width: int) -> Tensor:
    """A file as (3, height, width) in [0, 1]: its middle, of the asked shape, scaled. Raises UsageError."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            fitted = ImageOps.fit(opened.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{path} is no picture that can be opened: {error}") from error
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255
