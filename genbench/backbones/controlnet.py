"""ControlNets (arXiv:2302.05543) as a view: a network that holds the denoiser and what steers it; neither is changed.

Each family's network takes a ControlNet's residuals by other names; the picture to follow arrives as the keyword
`controlnet_cond`, in the form that `PipelineModel.follow` gives it.
"""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from genbench.errors import ModelError


class Controlled(nn.Module):
    """A denoising network with a ControlNet. Raises ModelError without a picture to follow."""

    def __init__(self, network: nn.Module, controlnet: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.controlnet = controlnet
        self.scale = scale

    def followed(self, controlnet_cond: Tensor | None) -> dict[str, Any]:
        """The keywords that every ControlNet takes."""
        if controlnet_cond is None:
            raise ModelError(
                "this model has a ControlNet; give its view an image, or conditioning a 'controlnet_cond' picture "
                "(b, 3, h, w)"
            )
        return {"controlnet_cond": controlnet_cond, "conditioning_scale": self.scale, "return_dict": False}


class ControlledUNet(Controlled):
    """Stable Diffusion and SDXL: residuals for the skip connections and the middle."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> Any:
        """x (n, c, h, w) and controlnet_cond (n, 3, 8h, 8w) in [0, 1]; returns what the UNet returns."""
        told = {"encoder_hidden_states": encoder_hidden_states, "added_cond_kwargs": added_cond_kwargs}
        down, middle = self.controlnet(x, t, **told, **self.followed(controlnet_cond))
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.network(x, t, **told, **residuals, **keywords)


class ControlledSD3(Controlled):
    """Stable Diffusion 3: residuals for the transformer's blocks; controlnet_cond are latents (n, c, h, w)."""

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        controlnet_cond: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        config: Any = self.controlnet.config
        pooled = (
            torch.zeros_like(pooled_projections) if config.force_zeros_for_pooled_projection else pooled_projections
        )
        (blocks,) = self.controlnet(
            hidden_states=hidden_states,
            timestep=timestep,
            # The 8B ControlNets of 3.5 read no text.
            encoder_hidden_states=None if config.joint_attention_dim is None else encoder_hidden_states,
            pooled_projections=pooled,
            **self.followed(controlnet_cond),
        )
        return self.network(
            hidden_states=hidden_states,
            timestep=timestep,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            block_controlnet_hidden_states=blocks,
            return_dict=return_dict,
        )


class ControlledFlux(Controlled):
    """FLUX.1: residuals for both kinds of blocks; controlnet_cond are packed latents, or a picture in [-1, 1]."""

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        controlnet_cond: Tensor | None = None,
        return_dict: bool = True,
        **keywords: Tensor,
    ) -> Any:
        net: Any = self.controlnet
        shared = {"hidden_states": hidden_states, "timestep": timestep, **keywords}
        own_guidance = guidance if net.config.guidance_embeds else None
        blocks, singles = net(**shared, guidance=own_guidance, **self.followed(controlnet_cond))
        return self.network(
            **shared,
            guidance=guidance,
            controlnet_block_samples=blocks,
            controlnet_single_block_samples=singles,
            controlnet_blocks_repeat=net.input_hint_block is not None,
            return_dict=return_dict,
        )


def open_controlnet(
    class_name: str, source: str, fits: Mapping[str, object], dtype: torch.dtype, device: torch.device, local_only: bool
) -> nn.Module:
    """Load a ControlNet from a folder or the Hub, safetensors only.

    `fits` are entries of its config that have to be the model's. Raises ModelError where it cannot be opened, is of
    another class, or was made for another model.
    """
    cls = getattr(diffusers, class_name)
    try:
        config, _ = cls.load_config(source, return_unused_kwargs=True, local_files_only=local_only)
        _check_config(source, class_name, config, fits)
        net = cls.from_pretrained(source, torch_dtype=dtype, local_files_only=local_only, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"controlnet='{source}' cannot be opened ({str(error).splitlines()[0]})") from error
    return net.to(device=device).eval()


def _check_config(source: str, class_name: str, config: Mapping[str, Any], fits: Mapping[str, object]) -> None:
    found = config.get("_class_name", class_name)
    if found != class_name:
        raise ModelError(f"controlnet='{source}' is a {found}; this model takes a {class_name}")
    for name, value in fits.items():
        if name in config and config[name] != value:
            raise ModelError(f"controlnet='{source}' was made for another model: {name} is {config[name]}, not {value}")
    if config.get("union") or config.get("num_mode"):
        raise ModelError(f"controlnet='{source}' is a union of several controls; give one for a single control")
