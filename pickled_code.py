"""Code inside pickles, found without loading them.

cloudpickle stores a function or class by value if it was defined in ``__main__`` or a notebook, and every lambda. Its
bytecode runs on the Python minor that compiled it. On another one it ends in a segmentation fault or an endless loop.
"""

import importlib
import pickletools

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

    A pickle that is compressed, or is kept as bytes in another one, is looked into; a file in an archive is not.
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
