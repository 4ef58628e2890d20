"""NPNet's network against its formula in plainest form, and the traps of the released code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench_npnet.network import (
    SWIN_SMALL,
    SWIN_TINY,
    NPNet,
    Residual,
    Shape,
    SingularValues,
    from_matrix,
    read_as_channels,
    to_matrix,
)
from tests.plugins import npnet_published as published

TINY: dict[str, Any] = {**SWIN_SMALL, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}


def network(channels: int = 4, size: int = 16, tokens: int = 5, width: int = 6, fixed_signs: bool = False) -> NPNet:
    """A network whose every parameter matters."""
    torch.manual_seed(0)
    made = NPNet(Shape(channels, size, tokens, width, TINY, fixed_signs))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_new_network_gives_back_its_noise() -> None:
    z = noise(3, 4, 16, 16)
    golden = NPNet(Shape(4, 16, 24, 128, SWIN_SMALL)).eval()(z, noise(3, 24, 128))
    assert (golden - z).abs().max() / z.abs().max() < 1e-5


@pytest.mark.parametrize("channels", [4, 9, 16])
def test_tiles_round_trip(channels: int) -> None:
    z = noise(2, channels, 6, 6)
    tiles = math.isqrt(channels)
    assert torch.equal(from_matrix(to_matrix(z, tiles), tiles), z)


def test_channels_become_the_corners_of_the_matrix() -> None:
    z = torch.arange(4.0)[None, :, None, None].expand(1, 4, 8, 8)
    matrix = to_matrix(z, 2)[0]
    corners = [matrix[:8, :8], matrix[:8, 8:], matrix[8:, :8], matrix[8:, 8:]]
    assert [float(corner.mean()) for corner in corners] == [0, 1, 2, 3]
    assert all(float(corner.std()) == 0 for corner in corners)


def plain(network: NPNet, z: Tensor, e: Tensor) -> Tensor:
    """The formula for one noise (4, s, s) and one embedding (tokens, width), in float64, by loops and indices.

    golden = U diag(s + f) V^T + (2 sigmoid(alpha) - 1) t + beta r(z + t); the transformer itself is timm's.
    """
    w = {name: tensor.double() for name, tensor in network.state_dict().items()}
    z, size = z.double(), z.shape[-1]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

    def mlp(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.2", linear(f"{name}.0", x).clamp(min=0))

    code = linear("embeeding.linear", e.double().flatten())
    normal = (z - z.mean()) / (z.var(correction=0) + 1e-6).sqrt()
    t = torch.stack([normal[c] * (1 + code[c]) + code[4 + c] for c in range(4)])

    matrix = torch.cat([torch.cat([z[0], z[1]], 1), torch.cat([z[2], z[3]], 1)], 0)
    u, s, vh = torch.linalg.svd(matrix)
    if network.shape.fixed_signs:
        for i in range(len(s)):
            if u[u[:, i].abs().argmax(), i] < 0:
                u[:, i], vh[i] = -u[:, i], -vh[i]
    hidden = mlp("unet_svd.mlp1", u.T) + mlp("unet_svd.mlp2", vh) + linear("unet_svd.mlp3.0", s)
    side, d = len(s), len(s) // 8
    qkv = linear("unet_svd.attention.qkv", hidden)
    heads: list[Tensor] = []
    for h in range(8):
        q, k, v = (qkv[:, n * side + h * d : n * side + (h + 1) * d] for n in range(3))
        heads.append((q @ k.T / math.sqrt(d)).softmax(1) @ v)
    attended = linear("unet_svd.attention.proj", torch.cat(heads, 1))
    s = s + mlp("unet_svd.mlp4", attended.mean(0))
    new = u @ s.diag() @ vh
    svd = torch.stack([new[:size, :size], new[:size, size:], new[size:, :size], new[size:, size:]])

    y, picture = z + t, network.shape.swin["img_size"]
    nearest = torch.tensor([math.floor(i * size / picture) for i in range(picture)])
    down, up = w["unet_embedding.downconv.weight"][:, :, 0, 0], w["unet_embedding.upconv.weight"][:, :, 0, 0]
    seen = torch.einsum("oc,chw->ohw", down, y[:, nearest][:, :, nearest])
    seen = seen + w["unet_embedding.downconv.bias"][:, None, None]
    tokens = network.double().unet_embedding.swin.forward_features(seen[None])[0]  # (7, 7, d)
    network.float()
    columns = [math.floor(i * 7 / size) for i in range(size)]
    entries = [math.floor(j * tokens.shape[2] / size) for j in range(size)]
    maps = torch.stack([torch.stack([tokens[row, i, entries] for i in columns]) for row in range(7)])
    r = torch.einsum("or,rhw->ohw", up, maps) + w["unet_embedding.upconv.bias"][:, None, None]
    return svd + (2 * torch.sigmoid(w["alpha"]) - 1) * t + w["beta"] * r


@pytest.mark.parametrize("fixed_signs", [False, True])
def test_the_formula(fixed_signs: bool) -> None:
    made = network(fixed_signs=fixed_signs)
    z, e = noise(2, 4, 16, 16), noise(2, 5, 6, seed=1)
    # LAPACK may choose other signs in another precision: without fixed signs compare in one precision.
    golden = made(z, e) if fixed_signs else double(made, z, e)
    for row in range(2):
        expected = plain(made, z[row], e[row])
        assert (golden[row] - expected).abs().max() < (1e-4 if fixed_signs else 1e-11) * expected.abs().max()


def double(made: NPNet, z: Tensor, e: Tensor) -> Tensor:
    """The same forward pass in float64; `NPNet.forward` itself casts to float32."""
    made.double()
    golden = made.golden(z.double(), e.double())
    made.float()
    return golden


def test_rows_do_not_see_each_other() -> None:
    made = network()
    z, e = noise(3, 4, 16, 16), noise(3, 5, 6, seed=1)
    together = made(z, e)
    alone = torch.cat([made(z[i : i + 1], e[i : i + 1]) for i in range(3)])
    assert (together - alone).abs().max() < 1e-4
    assert (made(z, e.roll(1, 0)) - together).abs().max() > 0.1  # each row has a prompt of its own


def test_the_grid_axis_is_read_as_channels() -> None:
    rows, columns, width = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), torch.arange(768.0), indexing="ij")
    tokens = (10_000 * rows + 1000 * columns + width)[None]
    read = read_as_channels(tokens, 128)
    assert read.shape == (1, 7, 128, 128)
    for k, i, j in ((0, 0, 0), (3, 64, 17), (6, 127, 127), (2, 36, 100)):
        assert float(read[0, k, i, j]) == 10_000 * k + 1000 * (i * 7 // 128) + j * 768 // 128


def test_fixed_signs_make_the_choice_of_signs_irrelevant(monkeypatch: pytest.MonkeyPatch) -> None:
    decompose = torch.linalg.svd

    def flipped(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = decompose(matrix)
        signs = torch.tensor([1.0, -1.0] * (len(s[0]) // 2))
        return u * signs, s, signs[:, None] * vh

    z, e = noise(1, 4, 16, 16), noise(1, 5, 6, seed=1)
    free, fixed = network(), network(fixed_signs=True)
    before = free(z, e), fixed(z, e)
    monkeypatch.setattr(torch.linalg, "svd", flipped)
    assert (free(z, e) - before[0]).abs().max() > 1e-4
    assert (fixed(z, e) - before[1]).abs().max() < 1e-5


@pytest.mark.parametrize(("model", "width"), [("sdxl", 2048), ("dit", 1024)])
def test_published_sizes(model: str, width: int) -> None:
    with torch.device("meta"):
        state = NPNet(Shape(4, 128, 77, width, SWIN_TINY)).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published.shapes(model)
    assert sum(tensor.numel() for tensor in state.values()) == published.VALUES[model]


def test_branches_keep_the_published_shape() -> None:
    torch.manual_seed(0)
    z = noise(2, 4, 128, 128)
    with torch.no_grad():
        assert SingularValues(4, 128, False)(z).shape == z.shape
        assert Residual(4, 128, SWIN_TINY).eval()(z).shape == z.shape


def test_the_small_network_is_small() -> None:
    parameters = sum(p.numel() for p in NPNet(Shape(4, 16, 24, 128, SWIN_SMALL)).parameters())
    assert 0.8e6 < parameters < 1.2e6
