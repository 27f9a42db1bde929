"""Code inside pickles, found without loading them.

cloudpickle stores a function or class by value if it was defined in ``__main__`` or a notebook, and every lambda. Its
bytecode runs on the Python minor that compiled it. On another one it ends in a segmentation fault or an endless loop.
"""

import importlib
import pickletools
import sys
from collections.abc import Mapping
from typing import Any

from artifacts import ModelError

CODE = {
    "_make_function",
    "_make_skeleton_class",
    "_make_skeleton_enum",
    "CodeType",
    # Releases before cloudpickle 2.1 used these.
    "_make_skel_func",
    "_fill_function",
    "_rehydrate_skeleton_class",
}
"""The functions of cloudpickle that build functions and classes, and the type of bytecode."""

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "lzma", b"x": "zlib"}
"""How compressed data begins, and Python's module that reads it. MLflow compresses a pyfunc if it is told to."""


def holds_code(content: bytes) -> bool:
    """Return whether the content is a pickle that stores functions or classes by value.

    A pickle that is compressed, or that is kept as bytes in another pickle, is searched; a file in an archive is not.
    """
    try:
        for _, argument, _ in pickletools.genops(_decompressed(content)):
            # A global is "module name" in old protocols. In new ones the name is a text of its own.
            if isinstance(argument, str) and argument.rpartition(" ")[2] in CODE:
                return True
            if isinstance(argument, bytes) and holds_code(argument):
                return True
    except ValueError:  # not a pickle, or only its beginning
        pass
    return False


def _decompressed(content: bytes) -> bytes:
    for beginning, module in COMPRESSIONS.items():
        if content.startswith(beginning):
            try:
                plain: bytes = importlib.import_module(module).decompress(content)
            except Exception:  # each module has its own: it only begins like compressed data
                return content
            return plain
    return content


def check_python(what: str, content: bytes, flavors: Mapping[str, Any]) -> None:
    """Refuse a pickle that holds code of another version of Python, because it could crash or hang the process.

    Raises ModelError. The flavor python_function says which Python made the pickle.
    """
    flavor = flavors.get("python_function")
    made_by = str(flavor.get("python_version") or "") if isinstance(flavor, dict) else ""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if made_by.split(".")[:2] == here.split("."):
        return
    if holds_code(content):
        maker = f"Python {made_by}" if made_by else "a Python that its MLmodel does not name (python_version)"
        raise ModelError(
            f"{what} holds functions or classes compiled by {maker}, but this is Python {here}, which cannot run them:"
            f" log the model with Python {here}, or run this with the Python that made it, or log it as skops"
        )
