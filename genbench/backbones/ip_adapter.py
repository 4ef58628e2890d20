"""IP-Adapters (arXiv:2308.06721) as a view: attention to a picture, in a copy of the UNet that shares its weights.

A published adapter is one file with `image_proj.*` and `ip_adapter.*`, and a CLIP image encoder in a folder
`image_encoder` beside it (some of SDXL's share that of `../models`). diffusers makes attention processors of the file.
"""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genbench import hub
from genbench.backbones.caches import sharing_copy
from genbench.backbones.folders import PICKLES, check_safetensors
from genbench.errors import GenbenchError, ModelError

State = Mapping[str, Mapping[str, Tensor]]
ENCODERS = ("image_encoder", "../models/image_encoder")
ENTRIES: Mapping[str, tuple[str, str]] = {
    "proj.weight": ("proj.weight", "projection_dim"),
    "latents": ("proj_in.weight", "hidden_size"),
    "proj.3.weight": ("proj.0.weight", "hidden_size"),
}
"""By the tensor that tells a kind of adapter (plain, plus, full face): where file and encoder say its width."""


@dataclass(frozen=True)
class IPAdapter:
    """A UNet with an adapter's attention, and the encoder that turns a picture into what it attends to.

    `pooled`: the adapter reads the picture's one embedding, else the encoder's last hidden states but one.
    """

    unet: nn.Module
    encoder: Any
    pooled: bool

    def embeds(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the UNet attends to for images (b, 3, h, w) in [0, 1], and for none: twice (b, 1, ...)."""
        pixels = preprocessed(image, int(self.encoder.config.image_size)).to(self.encoder.device, self.encoder.dtype)
        if self.pooled:
            seen = self.encoder(pixels).image_embeds
            return seen[:, None], torch.zeros_like(seen)[:, None]
        seen, nothing = (self._hidden(each) for each in (pixels, torch.zeros_like(pixels)))
        return seen[:, None], nothing[:, None]

    def _hidden(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels, output_hidden_states=True).hidden_states[-2]


def open_ip_adapter(unet: nn.Module, source: str, local_only: bool) -> IPAdapter:
    """Read an adapter (a .safetensors file, or `hf:org/name/file`) into a copy of the UNet.

    Raises ModelError naming what is missing, unsafe, or made for another model.
    """
    path = _located(source, local_only)
    state = read_adapter(path, source)
    kind = next((name for name in ENTRIES if name in state["image_proj"]), None)
    if kind is None:
        raise ModelError(
            f"ip_adapter='{source}' is of a kind that reads no CLIP picture (FaceID); give a plain or plus one"
        )
    tensor, entry = ENTRIES[kind]
    encoder = _encoder(source, path, entry, state["image_proj"][tensor].shape[1], local_only)
    adapted: Any = sharing_copy(unet)
    try:
        adapted._load_ip_adapter_weights([state])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"ip_adapter='{source}' was made for another model ({str(error).splitlines()[0]})") from error
    return IPAdapter(adapted.eval(), encoder.to(adapted.device, adapted.dtype).eval(), kind == "proj.weight")


def read_adapter(path: Path, source: str) -> State:
    """Return the two parts of an adapter file. Raises ModelError where it is none."""
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(path).items():
        part, _, rest = name.partition(".")
        state.setdefault(part, {})[rest] = tensor
    if set(state) != {"image_proj", "ip_adapter"} or not all(state.values()):
        raise ModelError(
            f"ip_adapter='{source}' is no IP-Adapter: it takes tensors image_proj.* and ip_adapter.* alone"
        )
    return state


def preprocessed(image: Tensor, size: int) -> Tensor:
    """Pictures (b, 3, h, w) in [0, 1] as CLIP reads them: (b, 3, size, size), normalised."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    shown = (image.permute(0, 2, 3, 1).float().cpu() * 255).round().to(torch.uint8).numpy()
    return processor([Image.fromarray(each) for each in shown], return_tensors="pt").pixel_values


def _located(source: str, local_only: bool) -> Path:
    path = hub.fetch(source, local_only) if hub.is_hub_file(source) else Path(source).expanduser()
    if path.suffix in PICKLES:
        raise ModelError(f"ip_adapter='{source}' is a pickle, which can run code; take the .safetensors file")
    if not path.is_file():
        raise ModelError(f"ip_adapter='{source}' does not exist; give a .safetensors file or hf:org/name/file")
    check_safetensors(path)
    return path


def _encoder(source: str, path: Path, entry: str, width: int, local_only: bool) -> Any:
    """The first encoder near the adapter whose `entry` is `width`."""
    from transformers import CLIPVisionModelWithProjection

    found: list[str] = []
    for folder in ENCODERS:
        fetch = _beside(source, path, folder, local_only)
        try:
            config = fetch("config.json")
        except GenbenchError:
            continue
        size = json.loads(config.read_text(encoding="utf-8")).get(entry)
        if size == width:
            place = fetch("model.safetensors").parent
            return CLIPVisionModelWithProjection.from_pretrained(place, local_files_only=True, use_safetensors=True)
        found.append(f"{folder} ({entry} {size})")
    near = f"; there is {', '.join(found)}" if found else ""
    raise ModelError(
        f"ip_adapter='{source}' needs a CLIP image encoder of {entry} {width} in {ENCODERS[0]} beside it{near}"
    )


def _beside(source: str, path: Path, folder: str, local_only: bool) -> Callable[[str], Path]:
    """Return how to get a file of an encoder's folder: from the same Hub repository, or beside the file."""

    def local(name: str) -> Path:
        file = path.parent / folder / name
        if not file.is_file():
            raise ModelError(f"ip_adapter='{source}': {folder}/{name} does not exist beside it")
        return file

    def remote(name: str) -> Path:
        parts = source.split("/")[:-1]
        parts = parts[:-1] if folder.startswith("../") else parts
        return hub.fetch("/".join([*parts, folder.removeprefix("../"), name]), local_only)

    return remote if hub.is_hub_file(source) else local
