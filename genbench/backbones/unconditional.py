"""Unconditional and class-conditional diffusion in pixel space: `UNet2DModel` in DDPM and DDIM pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genbench.backbones.base import Evaluate, Keywords, PipelineModel
from genbench.errors import UsageError
from genbench.kinds import Conditioning


@dataclass(frozen=True)
class UnconditionalModel(PipelineModel):
    """`DDPMPipeline` and `DDIMPipeline`. Latents are pictures in [-1, 1].

    Where the network has classes, the prompt is the class number (`prompt=7`); a negative class guides away from it.
    """

    family: ClassVar[str] = "unconditional"
    network_name: ClassVar[str] = "unet"

    @property
    def factor(self) -> int:
        return 1

    @property
    def multiple(self) -> int:
        return 2 ** (len(self.network_config["block_out_channels"]) - 1)

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        positive = self._classes(prompts)
        guided = guidance and negative is not None and bool(positive)
        return Conditioning(positive, self._classes(negative or []) if guided else None)

    def _classes(self, prompts: list[str]) -> dict[str, Tensor]:
        count = self.network_config.get("num_class_embeds")
        if count is None:
            return {}
        labels = [class_number(prompt, count) for prompt in prompts]
        return {"class_labels": torch.tensor(labels, device=self.device)}

    def encode_image(self, images: Tensor) -> Tensor:
        return (2 * images - 1).to(self.device, self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1).float()

    def evaluator(self, guidance_scale: float) -> Evaluate:
        network = self.network

        def evaluate(x: Tensor, t: Tensor, keywords: Keywords) -> Tensor:
            raw = network(x, t, return_dict=False, **keywords)[0]
            # Some networks also say a variance, which only a learned-variance DDPM step would use.
            return raw.chunk(2, dim=1)[0] if raw.shape[1] == 2 * x.shape[1] else raw

        return evaluate


def class_number(prompt: str, count: int) -> int:
    """Read a class number in [0, count). Raises UsageError for other text."""
    text = prompt.strip()
    if not text.isdecimal() or int(text) >= count:
        raise UsageError(f"prompt='{prompt}' is no class of this model; it takes a number from 0 to {count - 1}")
    return int(text)
