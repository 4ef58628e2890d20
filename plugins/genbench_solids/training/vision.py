"""The picture side of the tiny CLIP: the text tower stays as it is, the vision tower learns to meet it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

from genbench.training.checkpoints import load_weights
from genbench.training.loop import Stage, fit
from genbench_solids import tokenizer as tokenizers
from genbench_solids.captions import COLOURS, SHAPES, Attributes, Solid, say
from genbench_solids.reader import COLUMNS, reading_loss
from genbench_solids.scorers import IMAGE_MEAN, IMAGE_STD
from genbench_solids.training import text
from genbench_solids.training.data import load_split
from genbench_solids.training.readers import augment
from genbench_solids.training.recipe import Recipe
from genbench_solids.training.unet import described

NEGATIVES = 2  # hard negatives per picture: one attribute or the order is wrong
READ_OUT_WEIGHT = 0.3


def build(recipe: Recipe) -> CLIPModel:
    """An untrained CLIP around the trained text tower, which is frozen."""
    tower = text.load(recipe)
    vision = CLIPVisionConfig(
        hidden_size=recipe.text_width, intermediate_size=4 * recipe.text_width, num_hidden_layers=recipe.vision_layers,
        num_attention_heads=4, image_size=64, patch_size=8, projection_dim=recipe.text_width, hidden_act="gelu",
    )  # fmt: skip
    config = CLIPConfig(
        text_config=tower.config.to_dict(), vision_config=vision.to_dict(), projection_dim=recipe.text_width
    )
    model = CLIPModel(config)
    model.text_model.load_state_dict(tower.state_dict())
    model.text_model.requires_grad_(False)
    return model


class Seeing(nn.Module):
    """A CLIP whose picture embedding also names the attributes, while it learns."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.read_out = nn.Linear(clip.config.projection_dim, sum(COLUMNS))

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        seen = self.clip.visual_projection(self.clip.vision_model((images - IMAGE_MEAN) / IMAGE_STD).pooler_output)
        said = self.clip.text_projection(self.clip.text_model(input_ids=ids).pooler_output)
        return F.normalize(seen, dim=1), F.normalize(said, dim=1), self.read_out(seen).split(COLUMNS, 1)


def nearly(attributes: Attributes, rng: Random) -> Attributes:
    """The same attributes with one colour, one shape or the order wrong."""
    solids = list(attributes.solids)
    if len(set(solids)) > 1 and rng.random() < 0.4:
        first, second = rng.sample(range(len(solids)), 2)
        solids[first], solids[second] = solids[second], solids[first]
    if tuple(solids) == attributes.solids:
        k = rng.randrange(len(solids))
        s = solids[k]
        other = (
            Solid((s.colour + rng.randrange(1, len(COLOURS))) % len(COLOURS), s.shape, s.size)
            if rng.random() < 0.5
            else Solid(s.colour, (s.shape + rng.randrange(1, len(SHAPES))) % len(SHAPES), s.size)
        )
        solids = [other if s == solids[k] else s for s in solids] if attributes.kind in ("two", "three") else [
            *solids[:k], other, *solids[k + 1 :]]  # fmt: skip
    return Attributes(attributes.arrangement, tuple(solids), attributes.azimuth, attributes.elevation)


def contrast(seen: Tensor, said: Tensor, wrong: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE both ways; `wrong` (b, k, d) adds hard negatives, `same` (b, b) hides equal captions off the diagonal."""
    logits = (scale * seen @ said.T).masked_fill(same, -1e4)
    hard = scale * torch.einsum("bd,bkd->bk", seen, wrong)
    target = torch.arange(len(seen), device=seen.device)
    return F.cross_entropy(torch.cat((logits, hard), 1), target) + F.cross_entropy(logits.T, target)


def train(recipe: Recipe) -> CLIPModel:
    """Train or continue the vision tower."""
    torch.manual_seed(recipe.seed + 2)
    images, rows = load_split(recipe, "train")
    tokenizer = tokenizers.write(recipe.at("tokenizer"))
    model = Seeing(build(recipe))
    b = recipe.vision_batch

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(images), (b,), generator=generator)
        rng = Random(int(index[0]) + step)
        true = [described(row, rng) for row in rows[index].tolist()]
        captions = [say(a, rng) for a in true] + [say(nearly(a, rng), rng) for a in true for _ in range(NEGATIVES)]
        x = augment(images[index].to(recipe.device).float() / 255, generator)
        seen, said, columns = model(x, text.tokenize(tokenizer, captions).to(recipe.device))
        same = torch.tensor([[i != j and a == c for j, c in enumerate(true)] for i, a in enumerate(true)])
        scale = model.clip.logit_scale.exp().clamp(max=100)
        wrong = said[b:].view(b, NEGATIVES, -1)
        contrastive = contrast(seen, said[:b], wrong, same.to(seen.device), scale)
        matched = ((seen * said[:b]).sum(1) > torch.einsum("bd,bkd->bk", seen, wrong).amax(1)).float().mean()
        return contrastive + READ_OUT_WEIGHT * reading_loss(columns, rows[index].to(seen.device)), {
            "hard": matched.item()
        }

    fit(recipe, Stage("clip", model, loss, recipe.vision_steps, lr=1e-3))
    return load(recipe)


def load(recipe: Recipe) -> CLIPModel:
    """The finished CLIP."""
    model = Seeing(build(recipe))
    model.load_state_dict(load_weights(recipe, "clip"))
    return model.clip.to(recipe.device).eval().requires_grad_(False)
