"""VQAScore (Lin et al., arXiv:2404.01291): the probability that a vision-language model says "Yes", asked whether the
picture shows the prompt. Any model that transformers opens as image-text-to-text and that has a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genbench.errors import ModelError, UsageError
from genbench.kinds import About
from genbench_scorers import weights
from genbench_scorers.clip import Rows

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'  # arXiv:2404.01291, section 3
DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@cache
def processor(folder: Path) -> Any:
    """What turns pictures and text into the model's inputs; on tensors, so that gradients pass."""
    import transformers

    return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def asked(read: Any, question: str) -> str:
    """The question as the model's chat has it, with a place for one picture, up to where the answer begins."""
    if getattr(read, "chat_template", None) is None:
        raise ModelError("the vqascore model has no chat template; give one that answers questions about pictures")
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return read.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)


def first_token(read: Any, answer: str) -> int:
    """The token with which the answer begins."""
    return read.tokenizer(answer, add_special_tokens=False).input_ids[0]


def probability(model: Any, read: Any, image: Tensor, question: str, answer: str) -> Tensor:
    """Probability () in [0, 1] of the answer's first token after the question, of one picture (3, h, w)."""
    text = asked(read, question)
    inputs = read(text=[text], images=[image.float()], do_rescale=False, return_tensors="pt").to(image.device)
    logits = model(**inputs.to(model.dtype), use_cache=False).logits[0, -1]
    return logits.float().softmax(0)[first_token(read, answer)]


@dataclass(frozen=True)
class VQAScore:
    """Probability in [0, 1] that the model says Yes to the question whether the picture shows the prompt."""

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"  # a vision-language model: Hub id or transformers folder
    question: str = QUESTION  # what is asked; {} stands for the prompt
    answer: str = "Yes"  # whose first token's probability is the score
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the model; auto: as its weights are

    resize: ClassVar[str] = "the model's own processor, on floats"
    about: ClassVar[About] = About(
        "VQAScore: probability that a vision-language model says the picture shows the prompt, in [0, 1].",
        paper="Lin et al., Evaluating Text-to-Visual Generation with Image-to-Text Generation, ECCV 2024",
        url="https://arxiv.org/abs/2404.01291",
        license="Apache-2.0 (the default model); other models have their own",
        cost="one forward of the vision-language model per picture",
    )

    def __post_init__(self) -> None:
        if self.question.count("{}") != 1:
            raise UsageError(f"vqascore.question={self.question!r} has to hold {{}} once, where the prompt goes")

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), one picture at a time; differentiable in `images` (b, 3, h, w) in [0, 1]."""
        folder = weights.found_folder(self.model, "vqascore.model")
        dtype = DTYPES[self.dtype]
        model = weights.pretrained("AutoModelForImageTextToText", folder, str(images.device), dtype)
        questions = [self.question.replace("{}", prompt) for prompt in prompts]
        pairs = zip(images, questions, strict=True)
        return torch.stack([probability(model, processor(folder), x, text, self.answer) for x, text in pairs])

    def version(self) -> str:
        """What the weights and their settings hash to."""
        return weights.version(weights.found_folder(self.model, "vqascore.model"))
