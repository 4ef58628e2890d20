"""Files of Gaussians by name: which reader and which writer a path calls for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from genbench.errors import SceneError
from genbench.scenes import compressed, ply
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.plytables import read_tables
from genbench.scenes.splat import read_splat, write_splat

WRITERS: dict[str, Callable[[Path, Gaussians], None]] = {
    ".compressed.ply": compressed.write_compressed,
    ".ply": ply.write_ply,
    ".splat": write_splat,
}
"""By the end of the file's name, the longer first."""


def save_gaussians(path: Path, gaussians: Gaussians) -> None:
    """Write `.ply`, `.compressed.ply` or `.splat`; the file is whole or absent.

    Raises SceneError for another ending or for what cannot be drawn (the old file stays), OutputError.
    """
    for ending, write in WRITERS.items():
        if path.name.lower().endswith(ending):
            return write(path, gaussians)
    raise SceneError(f"{path.name}: Gaussians are written as {', '.join(WRITERS)}")


def read_gaussians(path: Path) -> Gaussians:
    """Read a PLY, plain or compressed, by its content; a `.splat`, which has no mark, by its name.

    Raises SceneError in one line for a file that is missing, broken or of another kind, for zero Gaussians and for
    numbers that are none.
    """
    try:
        return _read(path)
    except OSError as error:
        raise SceneError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path) -> Gaussians:
    with path.open("rb") as file:
        is_ply = file.read(3) == b"ply"
    if not is_ply and path.suffix.lower() == ".splat":
        return read_splat(path)
    tables = read_tables(path)
    return (compressed if compressed.is_compressed(tables) else ply).from_tables(tables, path)
