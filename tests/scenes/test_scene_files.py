"""Gaussians in files: what is written is read again, other writers' files too, broken ones are refused in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from genbench.errors import OutputError, SceneError
from genbench.scenes.compressed import compressed_bytes, read_compressed, write_compressed
from genbench.scenes.files import read_gaussians, save_gaussians
from genbench.scenes.gaussians import REST, Gaussians
from genbench.scenes.ply import NEEDED, ply_bytes, read_ply, write_ply
from genbench.scenes.splat import prominence, read_splat, splat_bytes, unit_quats, write_splat


def cloud(count: int = 7, degree: int = 0, seed: int = 0) -> Gaussians:
    """Random Gaussians that every format can hold: colours in [0, 1], harmonics in [-4, 4]."""
    rng = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=rng),
        quats=torch.randn(count, 4, generator=rng),
        scales=torch.randn(count, 3, generator=rng) - 3,
        opacities=2 * torch.randn(count, generator=rng),
        sh0=torch.rand(count, 1, 3, generator=rng) * 3.4 - 1.7,
        sh_rest=0.5 * torch.randn(count, REST[degree], 3, generator=rng),
    )


def equal(one: Gaussians, other: Gaussians) -> bool:
    return all(torch.equal(value, other.parameters()[name]) for name, value in one.parameters().items())


def same_turn(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """|cos| between quaternions: 1 where they turn alike."""
    return (unit_quats(one) * unit_quats(other)).sum(1).abs()


# --- PLY ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("normals", [True, False])
def test_a_ply_comes_back_bit_by_bit(work: Path, degree: int, normals: bool) -> None:
    scene = cloud(degree=degree)
    write_ply(Path("scene.ply"), scene, normals)
    assert equal(read_ply(Path("scene.ply")), scene)


def test_the_properties_stand_in_the_order_of_the_published_code(work: Path) -> None:
    write_ply(Path("scene.ply"), cloud(degree=3))
    header = Path("scene.ply").read_bytes().split(b"end_header\n")[0].decode().splitlines()
    names = [line.split()[-1] for line in header if line.startswith("property float")]
    rest = [f"f_rest_{number}" for number in range(45)]
    first = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    last = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == first + rest + last and header[2] == "element vertex 7"


@pytest.mark.parametrize("degree", [1, 3])
def test_without_normals_it_is_the_file_of_gsplat(degree: int) -> None:
    exporter = pytest.importorskip("gsplat.exporter")
    scene = cloud(degree=degree)
    parts = {**scene.parameters(), "shN": scene.sh_rest}
    del parts["sh_rest"]
    assert ply_bytes(scene, normals=False) == exporter.export_splats(**parts, format="ply")


def test_harmonics_are_channel_after_channel() -> None:
    scene = cloud(1, degree=1)
    numbers = np.frombuffer(ply_bytes(scene).split(b"end_header\n")[1], "<f4")
    assert numbers[9:18].tolist() == scene.sh_rest[0].T.flatten().tolist()


@pytest.mark.parametrize("style", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_properties_are_taken_by_name_whatever_their_order_and_type(work: Path, style: str) -> None:
    scene = cloud(degree=2)
    plain = np.frombuffer(ply_bytes(scene).split(b"end_header\n")[1], "<f4").reshape(7, -1)
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(24)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    mixed = np.random.default_rng(0).permutation(len(names))
    lines = [f"property double {names[index]}" for index in mixed]
    before = ["ply", f"format {style} 1.0", "comment by hand", "element other 2", "property uchar a"]
    header = "\r\n".join([*before, "element vertex 7", *lines, "element face 1", "property list uchar int v", ""])
    order = ">" if style == "binary_big_endian" else "<"
    body = plain[:, mixed].astype(order + "f8").tobytes()
    if style == "ascii":
        rows = ["3", "4", *(" ".join(repr(float(number)) for number in row) for row in plain[:, mixed])]
        body = "\n".join([*rows, "3 0 1 2", ""]).encode()
    else:
        body = b"\1\2" + body + b"\3" + bytes(12)
    Path("scene.ply").write_bytes(header.encode() + b"end_header\n" + body)
    assert equal(read_gaussians(Path("scene.ply")), scene)


# --- .splat -------------------------------------------------------------------------------------------------------


def test_a_splat_file_loses_no_more_than_a_step(work: Path) -> None:
    scene = cloud(50, degree=1)
    write_splat(Path("scene.splat"), scene)
    assert Path("scene.splat").stat().st_size == 32 * 50
    sent, got = scene.rows(prominence(scene).argsort(descending=True)), read_splat(Path("scene.splat"))
    assert torch.equal(got.means, sent.means) and got.degree == 0
    assert torch.allclose(got.scales, sent.scales, atol=1e-6)
    assert (got.colours - sent.colours.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert (got.opacities.sigmoid() - sent.opacities.sigmoid()).abs().max() <= 0.5 / 255 + 1e-6
    assert same_turn(got.quats, sent.quats).min() > 0.9999


def test_the_most_visible_come_first() -> None:
    rows = np.frombuffer(splat_bytes(cloud(50)), [("means", "<f4", 3), ("scales", "<f4", 3), ("rest", "u1", 8)])
    shown = rows["scales"].prod(1) * rows["rest"][:, 3]
    assert (np.diff(shown) <= 0.02 * shown[:-1]).all() or np.corrcoef(np.argsort(-shown), np.arange(50))[0, 1] > 0.99


def test_a_rotation_of_length_zero_turns_nothing() -> None:
    assert unit_quats(torch.zeros(1, 4)).tolist() == [[1, 0, 0, 0]]


# --- compressed PLY -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "degree"), [(1, 0), (300, 0), (600, 1), (300, 3)])
def test_a_compressed_ply_loses_no_more_than_its_steps(work: Path, count: int, degree: int) -> None:
    pytest.importorskip("gsplat")
    scene = cloud(count, degree)
    scene = scene.rows(scene.opacities.sigmoid() > 1 / 255)
    write_compressed(Path("scene.compressed.ply"), scene)
    got = read_compressed(Path("scene.compressed.ply"))
    nearest = torch.cdist(got.means, scene.means).argmin(1)
    assert len(nearest.unique()) == len(scene) == len(got)
    sent, span = scene.rows(nearest), scene.means.max(0).values - scene.means.min(0).values
    assert ((got.means - sent.means).abs() <= span / 1023 / 2 + 1e-5).all()
    assert (got.scales - sent.scales).abs().max() <= 8 / 1023
    assert (got.colours - sent.colours).abs().max() <= 0.5 / 255 + 1e-3
    assert (got.opacities.sigmoid() - sent.opacities.sigmoid()).abs().max() <= 0.5 / 255 + 1e-6
    assert same_turn(got.quats, sent.quats).min() > 0.99999
    assert got.degree == degree and (degree == 0 or (got.sh_rest - sent.sh_rest).abs().max() <= 8 / 256)


def test_an_older_compressed_ply_has_no_range_of_colours(work: Path) -> None:
    pytest.importorskip("gsplat")
    data = compressed_bytes(cloud(3))
    for name in ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b"):
        data = data.replace(f"property float {name}\n".encode(), b"")
    header, body = data.split(b"end_header\n", 1)
    Path("old.ply").write_bytes(header + b"end_header\n" + body[: 12 * 4] + body[18 * 4 :])
    assert (read_compressed(Path("old.ply")).colours <= 1).all()


def test_what_is_too_faint_to_see_is_left_out(work: Path) -> None:
    pytest.importorskip("gsplat")
    faint = cloud(4)
    faint.opacities[:] = torch.tensor([0.0, -9.0, 0.0, 0.0])
    write_compressed(Path("scene.compressed.ply"), faint)
    assert len(read_gaussians(Path("scene.compressed.ply"))) == 3
    faint.opacities[:] = -9.0
    with pytest.raises(SceneError, match="none of 4 Gaussians has an opacity above 1/255"):
        compressed_bytes(faint)


# --- by name ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scene.ply", "scene.splat", "SCENE.PLY", "scene.compressed.ply"])
def test_a_scene_is_written_and_read_by_the_name_of_its_file(work: Path, name: str) -> None:
    save_gaussians(Path(name), cloud(9))
    assert len(read_gaussians(Path(name))) == 9
    assert [path.name for path in Path().iterdir()] == [name]


def test_a_ply_is_known_by_its_content(work: Path) -> None:
    write_ply(Path("scene.splat"), cloud(3))
    assert equal(read_gaussians(Path("scene.splat")), cloud(3))


# --- what is refused ----------------------------------------------------------------------------------------------


def _bad(change: Callable[[bytes], bytes]) -> bytes:
    return change(ply_bytes(cloud(degree=1)))


MESH = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
BROKEN = {
    "is not a PLY file": b"OFF\n3 1 0\n",
    "is not a PLY file: it": b"",
    "the header does not end": b"ply\nformat ascii 1.0\nelement vertex 3\n",
    "header that cannot be read: format 'text'": _bad(lambda data: data.replace(b"binary_little_endian", b"text")),
    "'half' is no type": _bad(lambda data: data.replace(b"float x", b"half x")),
    "-7 rows of 'vertex'": _bad(lambda data: data.replace(b"vertex 7", b"vertex -7")),
    "header that cannot be read: invalid literal": _bad(lambda data: data.replace(b"vertex 7", b"vertex many")),
    "header that cannot be read: pop": _bad(lambda data: data.replace(b"element vertex 7\n", b"")),
    "has a property twice": _bad(lambda data: data.replace(b"float y\n", b"float x\n")),
    "is truncated: 6 of 7 rows": _bad(lambda data: data[:-1]),
    "is truncated: 7 of 999999999999 rows": _bad(lambda data: data.replace(b"vertex 7", b"vertex 999999999999")),
    "is truncated: 0 of 1 rows": MESH + b"end_header\n",
    "not all numbers": MESH + b"end_header\n1 2 up\n",
    "no Gaussian is left": _bad(lambda data: data.replace(b"vertex 7", b"vertex 0")),
    "it is a mesh": MESH + b"element face 1\nproperty list uchar int v\nend_header\n1 2 3\n3 0 0 0\n",
    "properties are missing: opacity rot_3": _bad(
        lambda data: data.replace(b"float opacity", b"float density").replace(b"float rot_3", b"float spin")
    ),
    "holds no Gaussians": b"ply\nformat ascii 1.0\nelement edge 0\nend_header\n",
    "has 8 properties f_rest_*": _bad(lambda data: data.replace(b"float f_rest_4\n", b"float other\n")),
    "Gaussians have means that are no numbers": _bad(lambda data: data[: data.index(b"end_header\n") + 11] + b"\xff" * 4
        + data[data.index(b"end_header\n") + 15 :]),
}  # fmt: skip


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_ply_is_refused_in_one_line(work: Path, message: str) -> None:
    Path("bad.ply").write_bytes(BROKEN[message])
    with pytest.raises(SceneError) as told:
        read_gaussians(Path("bad.ply"))
    text = str(told.value)
    assert message in text and text.startswith("bad.ply") and "\n" not in text


def test_a_broken_splat_file_is_refused(work: Path) -> None:
    good = splat_bytes(cloud(3))
    for data, message in (
        (good[:-1], "no multiple of 32"),
        (b"", "no Gaussian is left"),
        (b"\xff" * 64, "are no numbers"),
        (good[:15] + b"\xbf" + good[16:], "scales below 0"),
    ):
        Path("bad.splat").write_bytes(data)
        with pytest.raises(SceneError, match=message):
            read_gaussians(Path("bad.splat"))


def test_a_broken_compressed_ply_is_refused(work: Path) -> None:
    pytest.importorskip("gsplat")
    good = compressed_bytes(cloud(300, degree=1))
    for change, message in (
        ((b"float min_x", b"float low_x"), "missing: min_x"),
        ((b"uint packed_color", b"uint colour"), "missing: packed_color"),
        ((b"element chunk 2", b"element chunk 1"), "1 chunks for"),
        ((b"uchar f_rest_8\n", b"uchar f_rest_8\nproperty uchar f_rest_9\n"), "is truncated"),
        ((b"property uchar f_rest_8\n", b""), "8 harmonics"),
    ):
        Path("bad.ply").write_bytes(good.replace(*change))
        with pytest.raises(SceneError, match=message):
            read_gaussians(Path("bad.ply"))
    write_ply(Path("plain.ply"), cloud())
    with pytest.raises(SceneError, match="is no compressed PLY"):
        read_compressed(Path("plain.ply"))


def test_a_file_that_cannot_be_opened_is_told_in_a_line(work: Path) -> None:
    with pytest.raises(SceneError, match="absent.ply cannot be read: No such file"):
        read_gaussians(Path("absent.ply"))
    with pytest.raises(SceneError, match="cannot be read: Is a directory"):
        read_gaussians(Path())


@pytest.mark.parametrize("ending", [".ply", ".splat", ".compressed.ply"])
@pytest.mark.parametrize("spoil", ["none", "nan"])
def test_what_cannot_be_drawn_is_not_written_and_the_old_file_stays(work: Path, ending: str, spoil: str) -> None:
    path, scene = Path("scene" + ending), cloud(5)
    save_gaussians(path, scene)
    before = path.read_bytes()
    bad = scene.rows(torch.zeros(5, dtype=torch.bool)) if spoil == "none" else cloud(5)
    if spoil == "nan":
        bad.opacities[2] = float("nan")
    with pytest.raises(SceneError, match="no Gaussian is left" if spoil == "none" else "1 of 5 Gaussians"):
        save_gaussians(path, bad)
    assert path.read_bytes() == before


def test_other_endings_and_unwritable_folders_are_told(work: Path) -> None:
    with pytest.raises(SceneError, match="written as .compressed.ply, .ply, .splat"):
        save_gaussians(Path("scene.spz"), cloud())
    with pytest.raises(OutputError, match="No such file"):
        save_gaussians(Path("absent/scene.ply"), cloud())


def test_needed_properties_are_fourteen() -> None:
    assert len(NEEDED) == 14 and torch.allclose(normalize(torch.ones(1, 4)), unit_quats(torch.ones(1, 4)))
