"""A network that turns a prompt into a scene in one pass, and its file.

    c     = what a few learnt questions find among the text's tokens
    h_i   = an MLP of anchor i: its place in a ball and a vector of its own, every layer scaled and shifted by c
    Gaussian i = anchor i + head(h_i)

The published generators fill hash grids, voxels or planes that are rendered as a surface (ScaleDreamer,
arXiv:2407.02040, fig. 4); here it is Gaussians, which a processor draws quickly. At the start every prompt is the same
grey ball as of a scene that is optimised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from genbench.backbones.folders import check_safetensors
from genbench.errors import ModelError
from genbench.kinds import Model
from genbench.models import model_hash
from genbench.options import Range
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.starts import sphere
from genbench.training.checkpoints import save_tensors

NONE, AUTO, FILE, METADATA = "none", "auto", "generator.safetensors", "genbench"
SHIPPED = Path(__file__).parent / "weights"
TEXT = "encoder_hidden_states"
OCTAVES = 4
SLOPE = 0.2


@dataclass(frozen=True)
class Shape:
    """The sizes of a generator: what it reads, and what it makes."""

    text: int  # numbers of a token's encoding
    count: Annotated[int, Range(1)] = 1024  # Gaussians of a scene
    radius: float = 0.5  # of the ball that they begin in, world units
    width: int = 128  # of the MLP
    depth: int = 4  # its layers
    questions: int = 8  # asked of the text
    answer: int = 64  # numbers of an answer
    own: int = 16  # numbers of an anchor's own vector


class TextToGaussians(nn.Module):
    """Encodings of b prompts -> b scenes of `count` Gaussians."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        begin = sphere(shape.count, shape.radius, torch.Generator().manual_seed(0))
        told, width = shape.questions * shape.answer, shape.width
        self.start = begin
        self.questions = nn.Parameter(torch.randn(shape.questions, shape.answer) * shape.answer**-0.5)
        self.keys, self.values = (nn.Linear(shape.text, shape.answer) for _ in range(2))
        self.condition = nn.Sequential(nn.LayerNorm(told), nn.Linear(told, 2 * width), nn.SiLU())
        self.films = nn.Linear(2 * width, 2 * width * shape.depth)
        self.own = nn.Parameter(0.1 * torch.randn(shape.count, shape.own))
        self.first = nn.Linear(3 + 6 * OCTAVES + shape.own, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.depth))
        self.head = nn.Linear(width, sum(PARTS.values()))
        for last in (self.head, self.films):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, text: Tensor) -> list[Gaussians]:
        """Of encodings (b, tokens, text)."""
        anchors = self.start.means.to(text)
        places = torch.cat([anchors / self.shape.radius, waves(anchors / self.shape.radius), self.own], 1)
        films = self.films(self.condition(self.asked(text))).unflatten(1, (self.shape.depth, 2, -1))
        h = self.first(places).expand(len(text), -1, -1)
        for number, layer in enumerate(self.layers):
            scale, shift = films[:, number, :, None].unbind(1)
            h = h + nn.functional.leaky_relu(layer(h) * (1 + scale) + shift, SLOPE)
        return [self.gaussians(each) for each in self.head(h)]

    def asked(self, text: Tensor) -> Tensor:
        """What the questions find in the tokens, (b, questions * answer)."""
        weights = torch.softmax(self.keys(text) @ self.questions.T, 1)
        return torch.einsum("btq,bta->bqa", weights, self.values(text)).flatten(1)

    def gaussians(self, moved: Tensor) -> Gaussians:
        """Anchors moved by what the head says of each, (count, 14)."""
        begin, by = self.start.to(moved.device), dict(zip(PARTS, moved.split(list(PARTS.values()), 1), strict=True))
        return Gaussians(
            means=begin.means + self.shape.radius * torch.tanh(by["means"]),
            quats=begin.quats + by["quats"],
            scales=begin.scales + 2 * torch.tanh(by["scales"]),
            opacities=begin.opacities + 4 * by["opacities"][:, 0],
            sh0=begin.sh0 + by["sh0"][:, None],
            sh_rest=begin.sh_rest,
        )


PARTS = {"means": 3, "quats": 4, "scales": 3, "opacities": 1, "sh0": 3}
"""What the head says of a Gaussian, and in how many numbers."""


def waves(places: Tensor) -> Tensor:
    """sin and cos of places (n, 3) in `OCTAVES` octaves, (n, 6 * OCTAVES)."""
    turned = torch.cat([places * (torch.pi / 2 * 2**octave) for octave in range(OCTAVES)], 1)
    return torch.cat([turned.sin(), turned.cos()], 1)


def encoded(model: Model, prompts: Sequence[str]) -> Tensor:
    """What a generator reads of prompts, (b, tokens, width): the tokens' encodings that the model's network reads."""
    told = model.encode_prompt(list(prompts), guidance=False).positive
    text = told.get(TEXT, next(iter(told.values())))
    return (text[:, None] if text.ndim == 2 else text).float()


# --- files ----------------------------------------------------------------------------------------------------------


def save(network: TextToGaussians, path: Path, model: Model, prompts: int) -> None:
    """Write a generator in half precision, whole or not at all."""
    tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in network.state_dict().items()}
    told = {"base": model.name, "base_hash": model_hash(model), "prompts": prompts, "shape": asdict(network.shape)}
    save_tensors(tensors, path, {METADATA: json.dumps(told)})


def place_of(word: str, model: str) -> Path:
    """The file that `asd.weights=` means. Raises ModelError where there is none."""
    path = SHIPPED / f"{model.lower()}.safetensors" if word == AUTO else file_of(word)
    if not path.is_file():
        what = f"no generator comes with asd for model={model}" if word == AUTO else f"asd.weights={word} is no file"
        raise ModelError(f"{what}; train one: genbench train plugin=asd model={model} prompts=FILE")
    return path


def file_of(word: str) -> Path:
    """A file, or the one in a training's folder."""
    path = Path(word).expanduser()
    return path / FILE if path.is_dir() else path


def read_about(path: Path, model: str) -> Mapping[str, Any]:
    """What a file says of itself. Raises ModelError for a file that is no generator, or of another model."""
    if path.suffix != ".safetensors":
        raise ModelError(f"'{path}' is no generator: {FILE} of a training is one")
    told = json.loads((check_safetensors(path).get("__metadata__") or {}).get(METADATA, "{}"))
    if not {"base", "base_hash", "shape"} <= set(told):
        raise ModelError(f"'{path}' holds no generator of scenes; {FILE} of a training is one")
    if told["base"].lower() != model.lower():
        raise ModelError(f"'{path}' was trained for model={told['base']}, not for model={model}")
    return told


def opened(path: Path, model: Model) -> TextToGaussians:
    """The generator of a file. Raises ModelError for a file of another model, or one that does not fit."""
    told = read_about(path, model.name)
    if told["base_hash"] != model_hash(model):
        raise ModelError(f"'{path}' was trained for model={model.name} with other weights; train one for these")
    try:
        network = TextToGaussians(Shape(**told["shape"]))
        network.load_state_dict({name: tensor.float() for name, tensor in load(path.read_bytes()).items()})
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"'{path}' is of another version of genbench ({str(error).splitlines()[0]})") from error
    return network.to(model.device)


def answered(network: TextToGaussians, model: Model, prompt: str) -> Gaussians:
    """The scene of a prompt."""
    with torch.no_grad():
        return network(encoded(model, [prompt]))[0].detach()
