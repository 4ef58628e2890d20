"""The PLY container: a text header that lists elements with typed properties, then their rows.

Stanford's format (Turk, 1994): ascii and both binary byte orders, scalar properties. Elements with list properties
(a mesh's faces) are named but not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from genbench.errors import SceneError

MOST_HEADER = 1 << 16
"""No header of a Gaussian scene is longer, in bytes."""
TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class Element:
    """One kind of row: its name, how many there are, and (property, type of TYPES) of each column."""

    name: str
    count: int
    columns: tuple[tuple[str, str], ...]

    @property
    def has_lists(self) -> bool:
        """Whether a row's length differs from row to row."""
        return any(kind == "list" for _, kind in self.columns)

    def dtype(self, order: str) -> np.dtype[Any]:
        """The layout of a row; `order` is numpy's sign of the byte order."""
        return np.dtype([(name, order + TYPES[kind]) for name, kind in self.columns])


@dataclass(frozen=True)
class Header:
    """What a file promises: its format (a key of ORDERS), its elements in order, where the rows begin."""

    format: str
    elements: tuple[Element, ...]
    offset: int


Tables = dict[str, NDArray[Any]]
"""Rows by element's name, each a structured array (count,) with the properties as fields."""


def read_tables(path: Path) -> Tables:
    """All elements up to the first with lists.

    Raises SceneError for what is no PLY, has a broken header or ends too early; OSError where it cannot be opened.
    """
    with path.open("rb") as file:
        header = _header(file, path)
        read = _ascii if header.format == "ascii" else _binary
        tables: Tables = {}
        for element in header.elements:
            if element.has_lists:
                break
            tables[element.name] = read(file, element, header, path)
    return tables


def _header(file: BinaryIO, path: Path) -> Header:
    start = file.read(MOST_HEADER)
    if not start.startswith((b"ply\n", b"ply\r")):
        raise SceneError(f"{path} is not a PLY file: it does not begin with 'ply'")
    end = start.find(b"end_header")
    newline = start.find(b"\n", end)
    if end < 0 or newline < 0:
        raise SceneError(f"{path} is broken: the header does not end")
    words = [line.split() for line in start[:end].decode("ascii", "replace").splitlines()[1:] if line.strip()]
    file.seek(newline + 1)
    try:
        return _parsed(words, newline + 1)
    except (ValueError, IndexError, KeyError) as error:
        raise SceneError(f"{path} has a header that cannot be read: {error}") from error


def _parsed(lines: list[list[str]], offset: int) -> Header:
    style, elements = "", list[Element]()
    for line in lines:
        if line[0] == "format":
            style = line[1]
        elif line[0] == "element":
            elements.append(Element(line[1], int(line[2]), ()))
        elif line[0] == "property":
            last = elements.pop()
            elements.append(Element(last.name, last.count, (*last.columns, (line[-1], line[1]))))
        elif line[0] not in ("comment", "obj_info"):
            raise ValueError(f"'{' '.join(line)[:40]}' is no line of a header")
    _check(style, elements)
    return Header(style, tuple(elements), offset)


def _check(style: str, elements: list[Element]) -> None:
    if style not in ORDERS:
        raise ValueError(f"format '{style}' is none of {', '.join(ORDERS)}")
    for element in elements:
        if element.count < 0:
            raise ValueError(f"{element.count} rows of '{element.name}'")
        unknown = [kind for _, kind in element.columns if kind not in TYPES and kind != "list"]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no type")
        if len({name for name, _ in element.columns}) < len(element.columns):
            raise ValueError(f"'{element.name}' has a property twice")


def _binary(file: BinaryIO, element: Element, header: Header, path: Path) -> NDArray[Any]:
    layout = element.dtype(ORDERS[header.format])
    left = path.stat().st_size - file.tell()
    if left < element.count * layout.itemsize:
        raise _truncated(path, element, left // max(layout.itemsize, 1))
    rows = file.read(element.count * layout.itemsize)
    return np.frombuffer(rows, layout) if rows else np.zeros(element.count, layout)


def _ascii(file: BinaryIO, element: Element, header: Header, path: Path) -> NDArray[Any]:
    out = np.zeros(element.count if path.stat().st_size >= element.count else 0, element.dtype("<"))
    for number in range(element.count):
        words = file.readline().split()
        if len(words) != len(element.columns):
            raise _truncated(path, element, number)
        try:
            out[number] = tuple(float(word) for word in words)
        except (ValueError, OverflowError) as error:
            raise SceneError(f"{path}: row {number} of '{element.name}' is not all numbers") from error
    return out


def _truncated(path: Path, element: Element, whole: int) -> SceneError:
    return SceneError(f"{path} is truncated: {whole} of {element.count} rows of '{element.name}' are there")
