"""From integer rows to scenes: positions, sizes, yaw, camera and backdrop, with jitter but clean separation."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from genbench_solids.captions import ARRANGEMENTS, COLOURS, ROW_WIDTH, SLOTS
from genbench_solids.shapes import HEIGHTS, WIDTHS

SCALES = ((0.60, 0.66), (0.96, 1.04), (1.30, 1.38))  # small, medium, large, against an unnamed size of 1
HALF_FRAME = (2.4, 2.05, 3.05, 2.75, 3.8)  # half the picture's height in world units, per arrangement
FIELD_OF_VIEW = 0.5  # radians, the whole picture
CUBE_YAW = 0.52  # radians off the camera's axis: two sides and the top are seen, and edges keep their direction


@dataclass(frozen=True)
class Scenes:
    """A batch of b scenes with up to three solids; an empty slot has scale 0."""

    shape: Tensor  # (b, 3) int64, index into captions.SHAPES
    colour: Tensor  # (b, 3, 3) linear RGB in [0, 1]
    base: Tensor  # (b, 3, 3) the point each solid stands on
    scale: Tensor  # (b, 3)
    yaw: Tensor  # (b, 3) radians
    azimuth: Tensor  # (b,) radians; 0 is the front
    elevation: Tensor  # (b,) radians above the floor
    target: Tensor  # (b, 3) the point in the picture's middle
    half_frame: Tensor  # (b,)
    backdrop: Tensor  # (b, 3) RGB in [0, 1]

    def __len__(self) -> int:
        return len(self.azimuth)

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on another device."""
        return Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))


def lay_out(rows: Tensor, generator: torch.Generator) -> Scenes:
    """Place the solids of integer rows (b, 12), see `captions.Attributes.row`, with random jitter."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(rows), *shape, generator=generator)

    rows = rows.view(-1, ROW_WIDTH).long().cpu()
    arrangement, azimuth, elevation = rows[:, 0], rows[:, 1], rows[:, 2]
    colour, shape, size = rows[:, 3:].view(-1, SLOTS, 3).unbind(-1)
    present = (shape >= 0).float()
    shape, size = shape.clamp(min=0), size.clamp(min=0)
    low, high = torch.tensor(SCALES).unbind(-1)
    scale = (low[size] + (high - low)[size] * torch.rand(size.shape, generator=generator)) * present
    stacked = arrangement == ARRANGEMENTS.index("stack")

    gap = uniform(0.18, 0.36, SLOTS)
    wide = torch.tensor(WIDTHS)[shape] * scale
    ends = (2 * wide + gap * present).cumsum(1)
    beside = torch.stack(
        (ends - wide - gap / 2 - ends[:, -1:] / 2, uniform(-0.3, 0.3, SLOTS), torch.zeros_like(scale)), -1
    )
    height = torch.tensor(HEIGHTS)[shape] * scale
    tower = torch.zeros_like(beside)
    tower[:, :2, :2] = uniform(-0.07, 0.07, 2, 2)
    tower[:, 0, 2] = height[:, 1]
    base = torch.where(stacked[:, None, None], tower, beside) + torch.cat(
        (uniform(-0.18, 0.18, 1, 2), torch.zeros(len(rows), 1, 1)), -1
    )

    half = torch.tensor(HALF_FRAME)[arrangement] * uniform(0.98, 1.04)
    middle = torch.where(stacked, height[:, :2].sum(1) / 2, height.amax(1) / 2)
    target = torch.stack((uniform(-0.06, 0.06), uniform(-0.06, 0.06), middle + uniform(-0.1, 0.1)), -1)
    turn = torch.tensor((0.0, torch.pi / 2, torch.pi))[azimuth] + uniform(-0.12, 0.12)
    lows, highs = torch.tensor(((6.0, 10.0), (22.0, 29.0), (52.0, 60.0))).deg2rad()[elevation].unbind(-1)
    return Scenes(
        shape=shape,
        colour=(torch.tensor(list(COLOURS.values()))[colour.clamp(min=0)] + uniform(-0.03, 0.03, SLOTS, 3)).clamp(0, 1),
        base=base,
        scale=scale,
        yaw=CUBE_YAW + uniform(-0.09, 0.09, SLOTS),
        azimuth=turn,
        elevation=lows + (highs - lows) * uniform(0, 1),
        target=target,
        half_frame=half,
        backdrop=uniform(0.74, 0.84, 1) + uniform(-0.04, 0.04, 3),
    )
