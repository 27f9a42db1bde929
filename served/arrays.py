"""The file of a served form: named arrays and a description, in the safetensors format, which holds no code."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from msgspec import Struct
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int32]

DESCRIPTION = "served_form"
"""The key of the description in the file's metadata."""
MAX_BYTES = 128 * 1024 * 1024
"""The largest file that is read: loading trees takes about four times their size. A function has 1,769 MB by default.

The forest of a month of green taxi rides has 6 MB.
"""
MAX_HEADER_BYTES = 1024 * 1024
"""The longest header that is read: it is parsed into objects, which are far larger. A form of 100 columns has 20 KB."""
MAX_NAMES = 500_000
"""The names of all categories together: each becomes an object. TLC's 265 zones have 70,225 pairs."""
HEADER_BYTES = 8
"""The length of the header's length, which comes first in a safetensors file."""


class FormError(Exception):
    """A file is not a served form, or is damaged. The message says what is wrong, and may quote the file's texts."""


class _Header(Struct, rename={"metadata": "__metadata__"}):
    """The part of a safetensors header that ``safetensors.numpy.load`` leaves out."""

    metadata: dict[str, str]


def write_file(description: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of a file with the arrays and a description in JSON."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content: bytes = safetensors.numpy.save(plain, {DESCRIPTION: description.decode()})
    return content


def read_file(content: bytes) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return the description and the arrays in a file's content. Raises FormError."""
    if len(content) > MAX_BYTES:
        raise FormError(f"it has more than {MAX_BYTES:,} bytes")
    end = HEADER_BYTES + int.from_bytes(content[:HEADER_BYTES], "little")
    if end > min(len(content), MAX_HEADER_BYTES):
        raise FormError("it is not a safetensors file, it was cut off, or its header is too long")
    try:
        # safetensors checks that the arrays' shapes fit the file, and that they neither overlap nor leave gaps.
        arrays = safetensors.numpy.load(content)
        metadata = msgspec.json.decode(content[HEADER_BYTES:end], type=_Header).metadata
        return metadata[DESCRIPTION].encode(), arrays
    except KeyError as error:
        raise FormError(f"it has no {DESCRIPTION} in its metadata, or an array of a type that is not known") from error
    except Exception as error:
        raise FormError(f"it is not a safetensors file with a served form: {error}") from error


class Arrays:
    """The arrays of a file, each taken with the checks that its use needs."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the arrays by name."""
        self._arrays = dict(arrays)
        self._names_left = MAX_NAMES

    def floats(self, name: str, dimensions: int = 1, *, finite: bool = True) -> Floats:
        """Take an array of doubles. Raises FormError if it is missing, of another type or shape, or not finite.

        With ``finite=False`` the doubles may be infinite, but none may be NaN.
        """
        array: Floats = self._take(name, np.float64, dimensions)
        if not (np.isfinite(array).all() if finite else not np.isnan(array).any()):
            raise FormError(f"a number in {name} is NaN{' or infinite' if finite else ''}")
        return array

    def indices(self, name: str, below: int) -> Integers:
        """Take an array of integers from 0 to below a limit. Raises FormError if one is not."""
        array: Integers = self._take(name, np.int32, 1)
        if array.size and not 0 <= array.min() <= array.max() < below:
            raise FormError(f"an index in {name} is not from 0 to below {below}")
        return array

    def texts(self, name: str, count: int) -> list[str]:
        """Take this many different UTF-8 texts, with a zero byte after each. Raises FormError if it has others."""
        array = self._take(name, np.uint8, 1)
        self._names_left -= count
        # Counted first, because a list of texts is far larger than their bytes.
        if self._names_left < 0 or np.count_nonzero(array == 0) != count or (count and array[-1] != 0):
            raise FormError(f"{name} is not {count} texts that end with zero bytes, or all have over {MAX_NAMES:,}")
        try:
            texts = array.tobytes().decode().split("\0")[:-1]
        except UnicodeDecodeError as error:
            raise FormError(f"{name} is not UTF-8") from error
        if len(texts) != count or len(set(texts)) != count:
            raise FormError(f"{name} has a text twice, or one without a zero byte after it")
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
