"""Clean latents to calibrate on, for the ablations that look at pictures: a folder's, else the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.training.reals import METADATA, captioned, picture
from genbench.training.rollouts import Rollout

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def clean_latents(walks: Rollout, prompts: Sequence[str], folder: Path | None, seed: int) -> tuple[list[str], Tensor]:
    """One clean latent for every prompt, (n, ...), with the prompts. Raises UsageError for a folder with too few.

    The folder's own captions take the prompts' place where it has some.
    """
    if folder is None:
        return list(prompts), walks.latents(prompts, [seed + i for i in range(len(prompts))]).float().cpu()
    files, captions = listed(folder, prompts)
    if len(files) < len(prompts):
        raise UsageError(
            f"exemplars={folder} has {len(files)} pictures, and {len(prompts)} are asked for; give "
            f"ptq4dm.pictures={len(files)} or more pictures"
        )
    return captions, encoded(walks, files[: len(prompts)])


def listed(folder: Path, prompts: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The pictures of a folder, in order of names, and the prompts that go with them."""
    if (folder / METADATA).is_file():
        files, captions = captioned(folder)
        return list(files), list(captions[: len(prompts)])
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    return found, list(prompts)


@torch.no_grad()
def encoded(walks: Rollout, files: Sequence[Path]) -> Tensor:
    """The pictures as the model's clean latents, (n, ...), on the CPU."""
    known = walks.model.recommended
    height, width = (int(str(known[name])) for name in ("height", "width"))
    parts = [files[at : at + walks.batch] for at in range(0, len(files), walks.batch)]
    images = (torch.stack([picture(file, height, width) for file in part]) for part in parts)
    return torch.cat([walks.model.encode_image(part.to(walks.model.device)).float().cpu() for part in images])
