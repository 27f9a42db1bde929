"""The file of a served form: named arrays and a description, in the safetensors format, which holds no code."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

DESCRIPTION = "served_form"
"""The key of the description in the file's metadata."""
MAX_BYTES = 256 * 1024 * 1024
"""The largest file that is read: a function of 512 MB still has room for its batches."""
HEADER_BYTES = 8
"""The length of the header's length, which comes first in a safetensors file."""


class FormError(Exception):
    """A file is not a served form, or is damaged. The message says in one line what is wrong."""


def write_file(description: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of a file with the arrays and a description in JSON."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content: bytes = safetensors.numpy.save(plain, {DESCRIPTION: description.decode()})
    return content


def read_file(content: bytes) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return the description and the arrays in a file's content. Raises FormError."""
    if len(content) > MAX_BYTES:
        raise FormError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        # safetensors checks that the arrays' types, shapes and places fit the file.
        arrays = safetensors.numpy.load(content)
        header = content[HEADER_BYTES : HEADER_BYTES + int.from_bytes(content[:HEADER_BYTES], "little")]
        description = msgspec.json.decode(header, type=dict[str, Any])["__metadata__"][DESCRIPTION]
        return description.encode(), arrays
    except Exception as error:
        raise FormError(f"it is not a file of a served form: {error}") from error


class Arrays:
    """The arrays of a file, each taken with the checks that its use needs."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the arrays by name."""
        self._arrays = dict(arrays)

    def floats(self, name: str, dimensions: int = 1, *, finite: bool = True) -> Floats:
        """Take an array of doubles. Raises FormError if it is missing, of another type or shape, or not finite."""
        array: Floats = self._take(name, np.float64, dimensions)
        if finite and not np.isfinite(array).all():
            raise FormError(f"a number in {name} is not finite")
        return array

    def indices(self, name: str, below: int) -> Integers:
        """Take an array of integers from 0 to below a limit. Raises FormError if one is not."""
        array = self._take(name, np.int32, 1)
        if array.size and not 0 <= array.min() <= array.max() < below:
            raise FormError(f"an index in {name} is not below {below}")
        return array.astype(np.int64)

    def texts(self, name: str) -> list[str]:
        """Take an array that holds UTF-8 texts with a zero byte after each. Raises FormError if it does not."""
        content = self._take(name, np.uint8, 1).tobytes()
        try:
            texts = content.decode().split("\0")
        except UnicodeDecodeError as error:
            raise FormError(f"{name} is not UTF-8") from error
        if texts.pop():
            raise FormError(f"{name} does not end with a zero byte")
        return texts

    def check_all_taken(self) -> None:
        """Raise FormError if an array was not taken."""
        if self._arrays:
            raise FormError(f"it has an array {min(self._arrays)!r}, which nothing uses")

    def _take(self, name: str, dtype: type, dimensions: int) -> NDArray[Any]:
        array = self._arrays.pop(name, None)
        if array is None or array.dtype != dtype or array.ndim != dimensions:
            raise FormError(f"it has no array {name} of the type {np.dtype(dtype)} and {dimensions} dimensions")
        return array


def pack_texts(texts: list[str]) -> NDArray[np.uint8]:
    """Return the array from which ``Arrays.texts`` takes these texts. Raises ValueError if a text has a zero byte."""
    if any("\0" in text for text in texts):
        raise ValueError("a text has a zero byte")
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode(), np.uint8)
