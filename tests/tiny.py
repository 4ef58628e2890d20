"""Tiny random-weight pipelines of every supported family, built offline from configs; each in a fraction of a second.

Weights are drawn wide enough that prompt, guidance and size visibly change the picture. Tokenizers are built from
small vocabularies: any text can be encoded, nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

HIDDEN = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
WORDS = ("red", "blue", "cube", "sphere", "cat", "of", "a", "left", "right", "the", "photo")


def clip_tokenizer(length: int = 77) -> CLIPTokenizer:
    """Byte-level pairs in CLIP's own form, with no merges beyond letters."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces = [*sorted(alphabet), *(f"{letter}</w>" for letter in sorted(alphabet))]
    vocab = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def t5_tokenizer(length: int = 512) -> T5TokenizerFast:
    """A unigram vocabulary of letters and a few words."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -5.0) for letter in LETTERS] + [(f"▁{word}", -3.0) for word in WORDS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return T5TokenizerFast(tokenizer_object=tokenizer, model_max_length=length, extra_ids=0)


def bert_tokenizer(length: int = 77) -> BertTokenizer:
    """WordPiece with letters as continuation pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizer(
        vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=length
    )


def clip_encoder(
    cls: type = CLIPTextModel, projection: int = HIDDEN, hidden: int = HIDDEN, layers: int = 2
) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=projection,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return cls(config)


def t5_encoder(hidden: int = HIDDEN) -> nn.Module:
    config = T5Config(vocab_size=64, d_model=hidden, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def vae(blocks: int = 2, channels: int = 4, **config: object) -> nn.Module:
    """An autoencoder of factor 2 ** (blocks - 1)."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        **config,
    )


def unet(cross: int = HIDDEN, **config: Any) -> nn.Module:
    settings: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,  # heads of 8 channels, the narrowest that fused attention takes
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": cross,
    }
    return diffusers.UNet2DConditionModel(**{**settings, **config})


SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def sd(prediction_type: str = "epsilon", **unet_config: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(**unet_config),
        scheduler=diffusers.PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True, prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd_v() -> Any:
    return sd("v_prediction")


def sd_lcm() -> Any:
    """A UNet distilled to take the guidance scale as an input."""
    return sd(time_cond_proj_dim=8)


def sdxl() -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            2 * HIDDEN,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + HIDDEN,
            transformer_layers_per_block=(1, 1),
        ),
        scheduler=diffusers.EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="leading"),
        add_watermarker=False,
    )


def pixart_transformer(sample_size: int) -> nn.Module:
    return diffusers.PixArtTransformer2DModel(
        sample_size=sample_size,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=HIDDEN,
        cross_attention_dim=24,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=sample_size == 128,
    )


def _pixart(cls: type, sample_size: int) -> Any:
    return cls(
        vae=vae(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=pixart_transformer(sample_size),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def pixart_alpha() -> Any:
    return _pixart(diffusers.PixArtAlphaPipeline, 128)


def pixart_sigma() -> Any:
    return _pixart(diffusers.PixArtSigmaPipeline, 16)


def hunyuan() -> Any:
    bert = BertConfig(
        vocab_size=128, hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return diffusers.HunyuanDiTPipeline(
        vae=vae(blocks=4),
        text_encoder=BertModel(bert),
        tokenizer=bert_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            cross_attention_dim=HIDDEN,
            cross_attention_dim_t5=HIDDEN,
            pooled_projection_dim=4,
            hidden_size=HIDDEN,
            text_len=77,
            text_len_t5=256,
        ),
        scheduler=diffusers.DDPMScheduler(**SD_SCHEDULE, prediction_type="v_prediction", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd3(**scheduler: Any) -> Any:
    return diffusers.StableDiffusion3Pipeline(
        vae=vae(channels=16, shift_factor=0.06, scaling_factor=1.53),
        text_encoder=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_3=t5_encoder(2 * HIDDEN),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * HIDDEN,
            caption_projection_dim=16,
            pooled_projection_dim=2 * HIDDEN,
            out_channels=16,
            pos_embed_max_size=32,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    )


def sd35() -> Any:
    return sd3(use_dynamic_shifting=True)


def flux(guidance: bool = True) -> Any:
    return diffusers.FluxPipeline(
        vae=vae(channels=4, shift_factor=0.1, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=HIDDEN,
            pooled_projection_dim=HIDDEN,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def flux_schnell() -> Any:
    return flux(guidance=False)


def ddpm(classes: int | None = None) -> Any:
    network = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )
    return diffusers.DDPMPipeline(unet=network, scheduler=diffusers.DDPMScheduler(clip_sample=True))


def ddim() -> Any:
    return diffusers.DDIMPipeline(unet=ddpm().unet, scheduler=diffusers.DDIMScheduler())


def class_conditional() -> Any:
    return ddpm(classes=10)


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "sd": sd,
    "sd_v": sd_v,
    "sd_lcm": sd_lcm,
    "sdxl": sdxl,
    "pixart_alpha": pixart_alpha,
    "pixart_sigma": pixart_sigma,
    "hunyuan": hunyuan,
    "sd3": sd3,
    "sd35": sd35,
    "flux": flux,
    "flux_schnell": flux_schnell,
    "ddpm": ddpm,
    "ddim": ddim,
    "class_conditional": class_conditional,
}


def tiny(family: str, seed: int = 0) -> Any:
    """Return a fresh tiny pipeline of `family` with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = FAMILIES[family]()
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                _widen(module)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _widen(module: nn.Module) -> None:
    """Give zero and near-zero initial weights a size at which inputs matter."""
    module.eval()
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and "norm" not in name:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=1.5 * fan_in**-0.5)
        elif parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.1)


def saved(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny pipeline as a stock folder and return it."""
    tiny(family, seed).save_pretrained(folder)
    return folder
