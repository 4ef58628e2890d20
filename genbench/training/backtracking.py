"""A teacher that comes to meet its student (DisBack, arXiv:2408.15991).

Far from its own pictures a teacher's score is not to be trusted, and a student begins there. So a copy of the teacher
is first trained on what the untrained student draws, and the networks on its way, s_1 .. s_N, are kept; s_N fits that
student. The student then follows s_{N-1}, ..., s_1 and at last the teacher itself, each for `every` steps. The fake
score begins as s_N. Files hold half precision.
"""

# pyright: basic
# safetensors carries no types; it stops at this module's own signatures.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from safetensors.torch import load_file
from torch import nn

from genbench.kinds import Model
from genbench.training.checkpoints import save_tensors
from genbench.training.keeping import Keeping
from genbench.training.optimise import Training, Update
from genbench.training.place import Place
from genbench.training.roles import Role

PATH = "path"
"""What the role, its training and its checkpoint are called."""


@dataclass
class Backtracking:
    """The recorded networks in `folder`, 1 to `nodes`; `target` is a model whose weights are exchanged for theirs."""

    folder: Path
    nodes: int
    every: int
    target: Model
    network: nn.Module
    loaded: int = field(default=0, init=False)

    def file(self, node: int) -> Path:
        """Where the network of a node lies; the last one fits the untrained student."""
        return self.folder / f"{node:03d}.safetensors"

    def node(self, step: int) -> int:
        """Which one is followed at a step (from 0): nodes - 1 down to 1, then 0, the teacher itself."""
        return max(0, self.nodes - 1 - step // self.every)

    def teacher(self, step: int, teacher: Model) -> Model:
        """The model that is followed at a step."""
        node = self.node(step)
        if node == 0:
            return teacher
        if node != self.loaded:
            self.load(node, self.network)
            self.loaded = node
        return self.target

    def load(self, node: int, network: nn.Module) -> None:
        """Put the weights of a node into a network. Raises RuntimeError where they are another network's."""
        weights: dict[str, Any] = load_file(self.file(node))
        network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True)

    def record(
        self,
        place: Place,
        role: Role,
        update: Update,
        every: int,
        accelerator: Accelerator,
        settings: Mapping[str, object],
    ) -> None:
        """Train `role`, a copy of the teacher, and keep it every `every` updates; goes on after a kill.

        Raises ModelError where a path of other settings has begun there.
        """
        keep = Keeping(every, lambda step: self._keep(role, step // every, accelerator))
        steps = self.nodes * every
        Training(place, PATH, [role], lambda step: [update], steps, accelerator, settings, keep).run()
        accelerator.wait_for_everyone()  # one process writes what all will read

    def _keep(self, role: Role, node: int, accelerator: Accelerator) -> None:
        if accelerator.is_main_process:
            halves = {name: value.half().contiguous() for name, value in role.weights().items()}
            save_tensors(halves, self.file(node), {})
