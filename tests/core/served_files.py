"""Small served forms, and their files with other descriptions and arrays."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from served.arrays import read_file, write_file
from served.columns import Category, Column, Number
from served.forms import Form, write_form
from served.linear import Linear
from served.tables import Table
from served.trees import Trees

INFINITY = np.inf


def pairs(*values: float, other: float) -> Category:
    """Build the column of the pairs of zones 0_1, 1_1 and so on, one pair for each value."""
    return Category("PU_DO", [f"{zone}_1" for zone in range(len(values))], np.array(values), other)


def nodes(roots: int, *rows: tuple[float, ...]) -> dict[str, NDArray[Any]]:
    """Build the arrays of trees from their nodes: column, low, high, first child, value."""
    columns = np.array(rows).T
    arrays: dict[str, Any] = dict(zip(("column", "low", "high", "first", "value"), columns, strict=True))
    integers = {name: arrays[name].astype(np.int32) for name in ("column", "first")}
    return {**arrays, **integers, "roots": np.arange(roots, dtype=np.int32)}


def leaf(place: int, value: float) -> tuple[float, ...]:
    """Build a leaf."""
    return 0, INFINITY, INFINITY, place, value


DISTANCE = Number("trip_distance", single=True)
TREE_COLUMNS: list[Column] = [pairs(0, 1, 2, other=-1), DISTANCE]
THRESHOLD_NODES = nodes(
    *(2, (1, 2.0, INFINITY, 2, 0), leaf(1, 5), (0, 0.5, INFINITY, 4, 0), leaf(3, 7.5), leaf(4, 1), leaf(5, 2))
)
"""Two trees, the second of which is a leaf: tests of the distance and of the pair, each with one threshold."""
RANGE_NODES = nodes(
    2, *((1, 2.0, INFINITY, 2, 0), leaf(1, 5), (0, 0.5, 1.5, 4, 0), leaf(3, 7.5), leaf(4, 1), leaf(5, 2))
)
"""The same trees, but the second test is for one pair."""
ENCODINGS: list[Column] = [pairs(0.5, 1.5, other=1.0), pairs(2.5, 3.5, other=3.0), DISTANCE]
ENCODING_NODES = nodes(1, *((0, 1.0, INFINITY, 1, 0), (1, 3.0, INFINITY, 3, 0), leaf(2, 5), leaf(3, 1), leaf(4, 2)))
"""A tree with tests of two encodings of the pair."""
FORMS: dict[str, Form] = {
    "linear": Linear([pairs(1.5, -2, 0.25, other=0), Number("trip_distance", single=False)], np.array([1, 3.5, 0.5])),
    "table": Table([pairs(0, 1, 2, other=3), DISTANCE], np.array([0.5, 2.0]), np.arange(12.0).reshape(4, 3)),
    "leaf sets": Trees(TREE_COLUMNS, THRESHOLD_NODES, np.array([10.0, 2.0])),
    "encodings": Trees(ENCODINGS, ENCODING_NODES, np.array([0.0, 1.0])),
    "step by step": Trees(TREE_COLUMNS, RANGE_NODES, np.array([10.0, 2.0])),
}
"""A form of each kind, and two forms with trees: one for each way to find their leaves."""
FILES = {name: write_form(form) for name, form in FORMS.items()}


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the description and the arrays of a file."""
    text, arrays = read_file(content)
    return msgspec.json.decode(text), {name: array.copy() for name, array in arrays.items()}


def pack(description: object, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Build a file of a valid layout."""
    return write_file(msgspec.json.encode(description), arrays)


def with_header(header: object, data: bytes = b"") -> bytes:
    """Build a file with a header that safetensors would not write."""
    text = header if isinstance(header, bytes) else msgspec.json.encode(header)
    return len(text).to_bytes(8, "little") + text + data


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a file, and its data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return msgspec.json.decode(content[8:end]), content[end:]
