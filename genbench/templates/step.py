"""The plugin `newname`: scales the predicted noise of every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from genbench.kinds import About, Context, Denoise, Level, Prediction, State, Step
from genbench.options import Range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Newname:
    """Multiply the predicted noise by 1 + strength."""

    strength: Annotated[float, Range(-1, 1)] = 0.05  # relative change of the prediction; 0 is neutral

    about: ClassVar[About] = About(
        "One line: what this changes and why.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
        cost="1 x plain",
        neutral={"strength": 0.0},
    )

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        """Return a step around `step`; called once per trajectory."""
        if self.strength == 0:
            return step

        def wrapped(state: State, denoise: Denoise) -> State:
            def scaled(x: Tensor, level: Level) -> Prediction:
                prediction = denoise(x, level)
                return prediction.with_raw(prediction.eps * (1 + self.strength), "epsilon")

            return step(state, scaled)

        return wrapped
