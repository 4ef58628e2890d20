"""The plugin `npnet`: `genbench run plugin=npnet prompt="..."`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from genbench.errors import ModelError
from genbench.hub import is_hub_file
from genbench.kinds import About, Context, Start
from genbench.models import file_hash
from genbench_npnet import weights
from genbench_npnet.network import Shape
from genbench_npnet.redenoise import PAPER, URL

TEXT = "encoder_hidden_states"  # the families' keyword of the embeddings that the denoising network attends to


@dataclass(frozen=True)
class NPNet:
    """Golden noise (arXiv:2411.09502): one pass of a small network over noise and prompt, before sampling begins."""

    strength: float = field(default=1.0, metadata={"range": (0, None)})  # share of the way to the golden noise; 0: none
    weights: str = "auto"  # auto (by the model), solids, sdxl, dreamshaper, dit, or a file that training made

    about: ClassVar[About] = About(
        "Golden noise: a small network turns noise and prompt into better noise.",
        paper=PAPER,
        url=URL,
        license="Apache-2.0",
        families=("sd", "sdxl", "pixart", "hunyuan", "sd3", "flux"),
        cost="plain (the small network runs once per picture)",
        neutral={"strength": 0.0},
        cache_safe=True,
    )

    def check(self, model: str, family: str) -> None:
        """Raise ModelError where no weights are known for the model, or a file of them cannot be used."""
        if self.strength == 0:
            return
        known = weights.FAMILY.get(self.weights, family)
        if known != family:
            raise ModelError(
                f"npnet.weights={self.weights} are for models of family {known}, model={model} is of family {family}; "
                + ("leave npnet.weights= out" if weights.known(model) else weights.HOW_TO_TRAIN.format(model))
            )
        source = weights.source_for(self.weights, model)
        if not is_hub_file(source):
            weights.checked(*weights.read(Path(source)), Path(source))

    def version(self) -> str:
        """Which weights these are, as far as the words tell: the hash of a file that was named, else the name."""
        path = Path(self.weights).expanduser()
        return file_hash(path)[:12] if path.is_file() else self.weights

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`: no more."""
        return plain

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        """Replace the noise (b, c, h, w). Raises ModelError where the weights know other latents or embeddings."""
        if self.strength == 0:
            return start
        loaded = ctx.load(weights.source_for(self.weights, ctx.model.name), weights.load)
        noise, text = start.noise, ctx.conditioning.positive[TEXT]
        check_fit(loaded.network.shape, noise, text, self.weights, ctx)
        golden = loaded.network.to(noise.device)(noise, text.expand(len(noise), -1, -1))
        return replace(start, noise=(noise.float() + self.strength * (golden - noise.float())).to(noise.dtype))


def check_fit(known: Shape, noise: Tensor, text: Tensor, word: str, ctx: Context) -> None:
    """Raise ModelError unless the network is made for such latents (b, c, h, w) and embeddings (b, tokens, width)."""
    channels, height, width = noise.shape[1:]
    if (known.tokens, known.width) != tuple(text.shape[1:]):
        raise ModelError(
            f"npnet.weights={word} read text embeddings of {known.tokens} x {known.width}, this model gives "
            f"{text.shape[1]} x {text.shape[2]}; {weights.HOW_TO_TRAIN.format(ctx.model.name)}"
        )
    if (known.channels, known.size, known.size) != (channels, height, width):
        side = known.size * ctx.height // height
        raise ModelError(
            f"npnet.weights={word} are for latents of {known.channels} x {known.size} x {known.size}, this run has "
            f"{channels} x {height} x {width}; write height={side} width={side}"
        )
