"""The text tower, taught to say what a caption means: every attribute linearly readable from its last token."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from genbench.training.checkpoints import load_weights
from genbench.training.loop import Stage, fit
from genbench_solids import tokenizer as tokenizers
from genbench_solids.captions import Attributes, sample, say
from genbench_solids.holdout import seen
from genbench_solids.reader import COLUMNS, named, reading_loss
from genbench_solids.training.recipe import LEARNED_KINDS, Recipe

NO_VIEW = 3  # the view columns get one more choice: not named


def build(recipe: Recipe) -> CLIPTextModel:
    """An untrained text tower."""
    vocabulary, _ = tokenizers.build()
    end = vocabulary[tokenizers.END]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary), hidden_size=recipe.text_width, intermediate_size=4 * recipe.text_width,
            projection_dim=recipe.text_width, num_hidden_layers=recipe.text_layers, num_attention_heads=4,
            max_position_embeddings=tokenizers.LENGTH, hidden_act="gelu",
            bos_token_id=vocabulary[tokenizers.START], eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip


class ReadOut(nn.Module):
    """A text tower and one linear layer that names the attributes."""

    def __init__(self, tower: CLIPTextModel) -> None:
        super().__init__()
        self.tower = tower
        self.columns = tuple(n + (i in (1, 2)) for i, n in enumerate(COLUMNS))
        self.linear = nn.Linear(tower.config.hidden_size, sum(self.columns))

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        return self.linear(self.tower(input_ids=ids).pooler_output).split(self.columns, 1)


def targets(captioned: list[Attributes]) -> Tensor:
    """Rows (b, 12) of what the captions name; a view that is not named is a class of its own."""
    rows = torch.tensor([named(attributes) for attributes in captioned])
    rows[:, 1:3] = torch.where(rows[:, 1:3] < 0, NO_VIEW, rows[:, 1:3])
    return rows


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids (b, 24)."""
    return tokenizer(
        captions, padding="max_length", max_length=tokenizers.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def train(recipe: Recipe) -> CLIPTextModel:
    """Train or continue the text tower on fresh captions, none of a held-out combination."""
    torch.manual_seed(recipe.seed + 1)
    tokenizer = tokenizers.write(recipe.at("tokenizer"))
    model = ReadOut(build(recipe))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        kinds = rng.choices(list(LEARNED_KINDS), list(LEARNED_KINDS.values()), k=2 * recipe.text_batch)
        drawn = [a for a in (sample(kind, rng) for kind in kinds) if seen(a)][: recipe.text_batch]
        rows = targets(drawn).to(recipe.device)
        logits = model(tokenize(tokenizer, [say(a, rng) for a in drawn]).to(recipe.device))
        best = torch.stack([column.argmax(1) for column in logits], 1)
        exact = ((best == rows) | (rows < 0)).all(1).float().mean()
        return reading_loss(logits, rows), {"exact": exact.item()}

    fit(recipe, Stage("text", model, loss, recipe.text_steps, lr=1e-3))
    return load(recipe)


def load(recipe: Recipe) -> CLIPTextModel:
    """The finished text tower."""
    model = ReadOut(build(recipe))
    model.load_state_dict(load_weights(recipe, "text"))
    return model.tower.to(recipe.device).eval().requires_grad_(False)
