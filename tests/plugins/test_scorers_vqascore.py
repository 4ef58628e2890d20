"""vqascore on tiny vision-language models of two families, against the plain definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor

from genbench.errors import ModelError, UsageError
from genbench.testing import check_plugin
from genbench_scorers.vqascore import VQAScore

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
MARKS += ["<|video_pad|>", "<image>"]
CHAT = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TEXTS = ["a red cube", "a blue sphere"]


def tokenizer() -> Any:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ye", "Yes"]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    qwen: Any = transformers.Qwen2Tokenizer  # its types lack what it takes
    made = qwen(vocab=vocab, merges=[("Y", "e"), ("Ye", "s")])
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.pad_token = "<|endoftext|>"
    return made


def save_qwen(folder: Path) -> None:
    """Qwen2.5-VL, the family of the default model."""
    words = tokenizer()
    of = words.convert_tokens_to_ids
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "vocab_size": len(words), "max_position_embeddings": 512}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 4]}}
    text |= {"bos_token_id": None, "eos_token_id": of("<|im_end|>"), "pad_token_id": of("<|endoftext|>")}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    ids = {"image_token_id": of("<|image_pad|>"), "video_token_id": of("<|video_pad|>")}
    ids |= {"vision_start_token_id": of("<|vision_start|>"), "vision_end_token_id": of("<|vision_end|>")}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(),
        words,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)


def save_llava(folder: Path) -> None:
    """LLaVA: a CLIP, two linear maps and a Llama."""
    words = tokenizer()
    text = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(words)
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    place = words.convert_tokens_to_ids("<image>")
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=place)
    torch.manual_seed(1)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>\n"),
    ).save_pretrained(folder)


FAMILIES = {"qwen": save_qwen, "llava": save_llava}


@pytest.fixture(scope="module", params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return folder


def pictures(size: int = 56) -> Tensor:
    return (torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(5)) * 255).round() / 255


def plain_probability(folder: Path, image: Tensor, text: str) -> float:
    """From an 8-bit picture, with the model's own processor; the probability of `Yes` as the next token."""
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    read: Any = transformers.AutoProcessor.from_pretrained(folder)
    question = f'Does this figure show "{text}"? Please answer yes or no.'
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    asked = read.apply_chat_template(chat, add_generation_prompt=True)
    assert "assistant" in asked and question in asked
    pixels = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    inputs = read(text=[asked], images=[pixels], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    exponentials = (logits - logits.max()).exp()
    return float(exponentials[read.tokenizer.vocab["Yes"]] / exponentials.sum())


def test_score_is_the_probability_of_yes(tiny: Path) -> None:
    """The pictures have the size that the processor wants, so that it resizes nothing."""
    images = pictures(56 if (tiny / "video_preprocessor_config.json").exists() else 32)
    with torch.no_grad():
        found = VQAScore(str(tiny)).score(images=images, prompts=TEXTS)
    expected = [plain_probability(tiny, image, text) for image, text in zip(images, TEXTS, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert found.min() > 0 and found[0] != found[1]


def test_resized_pictures_score_as_pils_up_to_rounding(tiny: Path) -> None:
    with torch.no_grad():
        found = VQAScore(str(tiny)).score(images=pictures(75), prompts=TEXTS)
    expected = [plain_probability(tiny, image, text) for image, text in zip(pictures(75), TEXTS, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=0.02)


def test_gradients_reach_the_pixels(tiny: Path) -> None:
    images = pictures(60).requires_grad_()
    (gradient,) = torch.autograd.grad(VQAScore(str(tiny)).score(images=images, prompts=TEXTS).log().sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9


def test_question_and_answer_are_options(tiny: Path) -> None:
    images = pictures()
    usual = VQAScore(str(tiny)).score(images=images, prompts=TEXTS)
    assert not torch.equal(VQAScore(str(tiny), question="Is this {}?").score(images=images, prompts=TEXTS), usual)
    assert not torch.equal(VQAScore(str(tiny), answer="no").score(images=images, prompts=TEXTS), usual)


def test_contract(tiny: Path) -> None:
    check_plugin(VQAScore, "scorer", model=str(tiny))


def test_a_prompt_may_hold_braces(tiny: Path) -> None:
    with torch.no_grad():
        assert VQAScore(str(tiny)).score(images=pictures()[:1], prompts=["a {} in {0}"]).isfinite().all()


def test_a_question_without_a_place_for_the_prompt() -> None:
    with pytest.raises(UsageError, match="has to hold {} once"):
        VQAScore(question="Is it good?")


def test_a_model_without_a_chat(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="no chat template"):
        VQAScore(str(tmp_path)).score(images=pictures(), prompts=TEXTS)
