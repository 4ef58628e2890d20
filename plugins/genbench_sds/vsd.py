"""The plugin `vsd`: `genbench run plugin=vsd prompt="..."`, a scene by variational score distillation.

    gradient on z = w(t) (eps_hat(z_t; t, y) - eps_phi(z_t; t, y))
    phi: one step of Adam down |eps_phi(alpha z + sigma eps; t, y) - eps|^2 after each iteration

eps_phi is the prior with a LoRA that learns what the renderings of this scene look like (ProlificDreamer,
arXiv:2305.16213, algorithm 1), one scene at a time and told nothing of the camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from genbench.kinds import About, Context, SceneJob
from genbench.options import Range
from genbench.scenes.prior import Prior
from genbench.scenes.scores import Direction, Sight, bounds, guided, weights
from genbench.training.adapters import Adapted, with_adapter
from genbench_sds.sds import SDS


@dataclass(frozen=True)
class VSD(SDS):
    """Variational score distillation: the prior against a copy of it that knows this scene's renderings."""

    rank: Annotated[int, Range(1)] = 4  # of the LoRA
    lora_lr: Annotated[float, Range(0)] = 1e-3  # of its AdamW

    about: ClassVar[About] = About(
        "Makes a scene by variational score distillation: the prior's prediction against that of a LoRA that learns "
        "from the scene's own renderings.",
        paper="Wang et al., ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score "
        "Distillation, NeurIPS 2023",
        url="https://arxiv.org/abs/2305.16213",
        families=("sd", "sdxl", "sd3", "flux"),
        cost="4 per camera and iteration, one of them with a backward pass",
    )
    recommended: ClassVar[Mapping[str, object]] = {"guidance_scale": 7.5}

    def begin(self, prior: Prior, job: SceneJob) -> Direction:
        """The direction of one scene, with a LoRA of its own."""
        return Tuned(self, with_adapter(prior.model, self.rank, seed=job.seed))

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of a scene."""
        return 4 * self.batch * self.iterations


@dataclass
class Tuned:
    """The direction, and the LoRA that follows the scene."""

    method: VSD
    adapted: Adapted
    adamw: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.adamw = torch.optim.AdamW(self.adapted.parameters.values(), lr=self.method.lora_lr)

    def __call__(self, sight: Sight) -> Tensor:
        """w(t) (eps_hat - eps_phi) / b; then the LoRA learns from the same latents."""
        prior, texts, noise = sight.prior, sight.texts, sight.noise()
        t = sight.times(*bounds(sight, self.method.t_min, self.method.t_max))
        z_t = prior.noised(sight.z, noise, t)
        negative, prompt = prior.eps((z_t, t, texts.negative), (z_t, t, texts.prompt))
        (own,) = self._own(prior).eps((z_t, t, texts.prompt))
        first = guided(prompt, negative, sight.guidance_scale)
        self.learn(sight)
        return weights(sight, t, self.method.weighting) * (first - own) / len(z_t)

    def learn(self, sight: Sight) -> None:
        """One step of the LoRA, at times of the whole schedule."""
        noise, t = sight.noise(), sight.times(0, sight.prior.count - 1)
        z_t = sight.prior.noised(sight.z, noise, t)
        with torch.enable_grad():
            (own,) = self._own(sight.prior).eps((z_t, t, sight.texts.prompt))
            torch.autograd.backward(mse_loss(own, noise))
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def _own(self, prior: Prior) -> Prior:
        return replace(prior, model=self.adapted.model)

    def state(self) -> dict[str, Any]:
        """The LoRA and its optimiser."""
        learnt = {name: value.detach() for name, value in self.adapted.parameters.items()}
        return {"weights": learnt, "optimiser": self.adamw.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be what `state` was."""
        for name, value in self.adapted.parameters.items():
            value.data.copy_(state["weights"][name])
        self.adamw.load_state_dict(state["optimiser"])
