"""The method: `genbench run plugin=halo halo.strength=0.5 prompt="blue"`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from genbench.kinds import About, Context, Denoise, Level, Prediction, State, Step
from genbench.options import Range
from genbench_halo.ring import ring

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Halo:
    """Pull the rim of every predicted picture towards white: x0 + strength * ring * (1 - x0)."""

    strength: Annotated[float, Range(0, 1)] = 0.5  # how far towards white; 0 is neutral

    about: ClassVar[About] = About(
        "A bright ring around the picture.",
        contract=1,
        paper="Nobody, An Example of a Plugin",
        url="https://example.org/halo",
        license="Apache-2.0",
        families=("toy",),
        cost="1 x plain",
        neutral={"strength": 0.0},
        cache_safe=True,
    )

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        if self.strength == 0:
            return step

        def glowing(state: State, denoise: Denoise) -> State:
            mask = self.strength * ring(*state.x.shape[-2:]).to(state.x)

            def brighter(x: Tensor, level: Level) -> Prediction:
                prediction = denoise(x, level)
                return prediction.with_raw(prediction.x0 + mask * (1 - prediction.x0), "sample")

            return step(state, brighter)

        return glowing
