"""The check of a skops file that no digest vouches for: nothing in it may run code, crash or loop forever.

A skops file is a zip file: ``schema.json`` describes a tree of nodes, and each array is a file of its own. skops itself
checks the types of the objects that it builds, but not their attributes. An attribute can be a function that
``predict`` calls, or an index that compiled code follows without a check. So this module reads the nodes as skops does,
builds nothing, and refuses every node that ``skops_types`` does not list.
"""

import ast
import functools
import importlib
import inspect
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, NoReturn

import msgspec
import numpy as np

import skops_checks as checks
from skops_checks import Array, Instance
from skops_types import (
    GENERATOR,
    INSTANCES,
    KEY_TYPES,
    LOSS_FUNCTIONS,
    MASKED,
    OBJECT_ARRAY,
    OBJECTS,
    PARTS,
    PRIVATE,
    RANDOM_STATE,
    RECORDS,
    SCALAR_TYPES,
    TREE,
    TYPE,
)

_MAX_SCHEMA = 2**26
"""The largest ``schema.json`` in bytes. Each feature of a DictVectorizer takes about a thousand of them."""
_SEPARATORS, _MAX_PARTS = (b",", b"[", b"{"), 4_000_000
"""What is counted before the schema is read, and the most of it. Each may become an object of Python, which takes fifty
bytes or more; a model of 60,000 features has a million."""
_MAX_UNPACKED, _MAX_RATIO = 2**26, 20
"""The bytes that any file may unpack to, and how many times its own size a file may unpack to if that is more."""
_MAX_NODES = 2**20
_MAX_DEPTH = 60
"""The deepest nesting of nodes. An estimator in an estimator takes four levels, and skops calls itself for each."""
_MAX_INTEGER = 2**128
_ONLY_PINNED = "if you trust the file, set MODEL_SHA256"
_PROTOCOLS = (0, 1, 2)
_NAMES = frozenset({"builtins.str"})
_FITTED = re.compile(r"[A-Za-z]\w*(?<!_)_")
"""How scikit-learn names the attributes that ``fit`` sets."""
_FIELD = r"\('\w*', '[<|][biufV]\d{1,3}'\)"
_HEADER = re.compile(
    rf"{{'descr': ('[<|][biuf][1248]'|'<U[1-9]\d{{0,3}}'|\[{_FIELD}(?:, {_FIELD}){{0,20}}\]), "
    r"'fortran_order': (?:True|False), 'shape': \(((?:\d{1,10}, )*\d{1,10},?|)\), } *\n"
)
"""The header of a .npy file as numpy writes it: its type, without Python objects, and its shape."""


class SchemaError(ValueError):
    """A skops file is only loaded if its digest is pinned. The message is one line and ends with the setting's name."""


def check_schema(file: BinaryIO) -> None:
    """Raise SchemaError unless loading the skops file and predicting with it is safe.

    Args:
        file: the very file that skops loads afterwards. It is read from its beginning, and rewound.

    Raises:
        SchemaError: if it is not safe. If it is not a skops file, the errors of zipfile and json are raised.
    """
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        _check_archive(archive, size)
        content = archive.read("schema.json")
        if sum(map(content.count, _SEPARATORS)) > _MAX_PARTS:
            raise SchemaError(f"its schema.json has more than {_MAX_PARTS:,} parts: {_ONLY_PINNED}")
        _Reader(archive).check(json.loads(content))
    file.seek(0)


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    if len({entry.filename for entry in entries}) < len(entries):
        raise SchemaError(f"its zip file has two files of one name: {_ONLY_PINNED}")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise SchemaError(f"its zip file is neither plain nor deflated: {_ONLY_PINNED}")
    # zipfile never unpacks more of an entry than the size that the entry claims.
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(_MAX_UNPACKED, _MAX_RATIO * size):
        raise SchemaError(f"its {size:,} bytes unpack to {unpacked:,}: {_ONLY_PINNED}")
    if archive.getinfo("schema.json").file_size > _MAX_SCHEMA:
        raise SchemaError(f"its schema.json has more than {_MAX_SCHEMA:,} bytes: {_ONLY_PINNED}")


class _Reader:
    """Reads nodes into plain values: scalars, lists, tuples, dicts, ``Array`` and ``Instance``."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._path: list[str | int] = []
        self._kind = ""
        """The type in the label of the node that is being read."""
        self._opened: set[int] = set()
        self._values: dict[int, tuple[Any, frozenset[str], int]] = {}
        """The nodes that were read, by id: the value, what it holds besides plain values, and its number of nodes."""
        self._parts: set[str] = set()
        """What the value that is being read holds besides plain values: types of instances, and what PARTS names."""
        self._size = 0
        """The number of nodes in the value that is being read."""

    def check(self, schema: Any) -> None:
        """Raise SchemaError unless the tree of nodes is an estimator that is safe."""
        try:
            protocol = schema.get("protocol")
            # Other protocols read the same nodes in other ways.
            if type(protocol) is not int or protocol not in _PROTOCOLS:
                self._refuse(f"has the protocol {protocol!r}, which is not one of {_PROTOCOLS}")
            if not isinstance(self.read(schema, str(schema.get("__class__"))), Instance):
                self._refuse("is not an estimator")
        except SchemaError:
            raise
        except Exception as error:
            self._refuse(f"cannot be read: {type(error).__name__}: {error}")

    def read(self, node: Any, part: str | int) -> Any:
        """Return a node's value; ``part`` is its name or place in the node around it."""
        # skops reads only the first node of an id, and uses its value for all other nodes of that id. It reads nodes in
        # the same order as this class.
        identity = node.get("__id__") if isinstance(node, dict) else None
        known = self._values.get(identity) if type(identity) is int else None
        if known is None:
            # After a failure the path stays as it is, because the error names it.
            self._path.append(part)
            known = self._read_new(node)
            self._path.pop()
        value, parts, size = known
        if parts:
            self._parts |= parts
        # A node that is used many times counts many times: a few of them, nested, would make an endless model.
        self._size += size
        if self._size > _MAX_NODES:
            self._refuse(f"has more than {_MAX_NODES:,} nodes")
        return value

    def _read_new(self, node: Any) -> tuple[Any, frozenset[str], int]:
        identity, loader = self._open(node)
        if len(self._path) > _MAX_DEPTH:
            self._refuse(f"is more than {_MAX_DEPTH} nodes deep")
        types, read = _LOADERS[loader]
        if self._kind not in types:
            self._refuse("is not of a type that is safe without a digest")
        parts, size = self._parts, self._size
        self._parts, self._size = set(), 1
        known = self._values[identity] = read(self, node), frozenset(self._parts), self._size
        self._parts, self._size = parts, size
        return known

    def _open(self, node: Any) -> tuple[int, str]:
        """Return a new node's id and the name of skops' class for it, and remember its type for a refusal."""
        if not isinstance(node, dict):
            self._refuse("is not a node")
        loader, identity = node.get("__loader__"), node.get("__id__")
        self._kind = f"{node.get('__module__')}.{node.get('__class__')}"
        if type(identity) is not int or identity <= 0:
            self._refuse("has no __id__")
        if identity in self._opened:
            self._refuse("holds itself")
        self._opened.add(identity)
        if not isinstance(loader, str) or loader not in _LOADERS:
            self._refuse(f"is a {loader}, which can run code")
        return identity, loader

    def _refuse(self, reason: str) -> NoReturn:
        parts = (f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in self._path)
        text = " ".join(f"{''.join(parts).removeprefix('.')} ({self._kind[:120]}) {reason[:300]}".split())
        # Names come from the file, and the line goes to a log or a terminal.
        raise SchemaError(f"{''.join(c if c.isprintable() else '?' for c in text)}: {_ONLY_PINNED}")

    def _json(self, node: Mapping[str, Any]) -> Any:
        content = node["content"]
        # A text that begins so is no scalar, and nested lists could be deeper than Python's stack.
        if not isinstance(content, str) or content[:1] in ("", "[", "{", " ", "\t", "\n", "\r"):
            self._refuse("is not a plain value")
        # The same as ``json.loads``, and faster: a model has a text and a number for each value of a category.
        plain = content[0] == '"' and content.isascii() and "\\" not in content
        value = msgspec.json.decode(content) if plain or content.isdecimal() else json.loads(content)
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            self._refuse("is too large a number")
        return value

    def _list(self, node: Mapping[str, Any]) -> list[Any]:
        content = node["content"]
        if not isinstance(content, list):
            self._refuse("is not a list")
        return [self.read(item, index) for index, item in enumerate(content)]

    def _tuple(self, node: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self._list(node))

    def _slice(self, node: Mapping[str, Any]) -> slice:
        ends = [node["content"][name] for name in ("start", "stop", "step")]
        if any(type(end) not in (int, str, type(None)) for end in ends):
            self._refuse("is not a slice of numbers or names")
        return slice(*ends)

    def _dict(self, node: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.read(item, key) for key, item in self._items(node, KEY_TYPES)}

    def _items(self, node: Mapping[str, Any], key_types: frozenset[str]) -> Iterable[tuple[str, Any]]:
        """Return the keys of a dict as texts, with the nodes of its values."""
        content, types = node["content"], node["key_types"]
        if not isinstance(content, dict):
            self._refuse("is not a dict")
        kinds = self.read(types, "key_types")
        # skops calls each type with its key.
        if (
            len(kinds) != len(content)
            or not key_types.issuperset(kinds)
            or self._parts != ({TYPE} if content else set())
        ):
            self._refuse("has keys of other types than it may have")
        # The texts differ, but "1" and "01" are one number: skops would build a smaller dict than the one checked here.
        if not _NAMES.issuperset(kinds) and len(set(map(_read_key, kinds, content))) != len(content):
            self._refuse("has two keys that are equal")
        self._parts = set()
        return content.items()

    def _type(self, _: Mapping[str, Any]) -> str:
        self._parts.add(TYPE)
        return self._kind

    def _dtype(self, node: Mapping[str, Any]) -> str:
        kind = self._kind
        array = self.read(node["content"], "dtype")
        if not isinstance(array, Array) or array.shape != (0,):
            self._refuse("is not the type of an array")
        self._parts = {TYPE}
        return kind

    def _array(self, node: Mapping[str, Any]) -> Array:
        scalar = self._kind != "numpy.ndarray"
        if node["type"] == "json" and not scalar:
            return self._object_array(node)
        # One array, one file: otherwise a small file could be read thousands of times.
        if node["type"] != "numpy" or node["file"] != f"{node['__id__']}.npy":
            self._refuse("is not an array in a file of its own")
        content = self._archive.read(node["file"])
        start = 10 + int.from_bytes(content[8:10], "little")
        header = _HEADER.fullmatch(content[10:start].decode("latin-1"))
        if content[:8] != b"\x93NUMPY\x01\x00" or not header:
            self._refuse("is an array of a kind that is not safe")
        shape = tuple(int(number) for number in header[2].replace(",", " ").split())
        dtype = _read_dtype(header[1])
        if dtype.names:
            self._parts.add(RECORDS)
        if len(content) != start + math.prod(shape) * dtype.itemsize or (scalar and shape):
            self._refuse("is an array of another size than its header says")
        # An array without elements can still have any number of rows, and each row is an object in a loop.
        if not math.prod(shape) and sum(shape) > _MAX_NODES:
            self._refuse("is an empty array with too many rows")
        return Array(dtype, shape, lambda: np.frombuffer(content, dtype, offset=start))

    def _object_array(self, node: Mapping[str, Any]) -> Array:
        items = self._list(node)
        shape = self.read(node["shape"], "shape")
        rows = [item for item in items if isinstance(item, list)]
        if len(shape) == 2 and any(isinstance(item, list | tuple | dict | Array) for row in rows for item in row):
            self._refuse("is an array of more dimensions than its shape says")
        if shape != ((len(items),) if len(shape) == 1 else (len(rows), shape[1])) or len(rows) not in (0, len(items)):
            self._refuse("is an array of another shape than it says")
        if any(len(row) != shape[-1] for row in rows):
            self._refuse("is an array of rows that differ in length")
        self._parts.add(INSTANCES if self._parts else OBJECT_ARRAY)
        return Array(np.dtype(object), shape, lambda: items)

    def _masked(self, node: Mapping[str, Any]) -> None:
        for name in ("data", "mask"):
            self.read(node["content"][name], name)
        self._parts = {MASKED}

    def _object(self, node: Mapping[str, Any]) -> Instance:
        kind, content = self._kind, node["content"]
        attributes: dict[str, Any] = {}
        if content["__loader__"] == "DictNode" and content["__id__"] not in self._opened:
            identity, _ = self._open(content)
            if self._kind != "builtins.dict":
                self._refuse("has attributes in a node that is not a dict")
            everything: set[str] = set()
            for name, item in self._items(content, _NAMES):
                self._parts = set()
                attributes[name] = self.read(item, name)
                self._kind = kind
                self._check_attribute(name)
                everything |= self._parts
            self._values[identity] = attributes, frozenset(everything), self._size
        elif self.read(content, "content") is not None:
            self._refuse("has attributes that are not its own")
        return self._make(kind, OBJECTS[kind].check, attributes)

    def _check_attribute(self, name: str) -> None:
        """Refuse an attribute that the type does not have, or that holds what it may not hold."""
        if not _has_attribute(self._kind, name):
            self._refuse(f"has an attribute {name}, which is not one of this type")
        if unexpected := self._parts - OBJECTS[self._kind].parts.get(name, PARTS.get(name, frozenset())):
            self._refuse(f"has in its attribute {name} {min(unexpected)}")

    def _make(self, kind: str, check: Callable[[Mapping[str, Any]], None], state: Mapping[str, Any]) -> Instance:
        """Return an instance after a check of the values that its compiled code does not check."""
        self._kind, self._parts = kind, {kind}
        try:
            check(state)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            self._refuse(f"is not consistent: {type(error).__name__}: {error}")
        return Instance(kind, state)

    def _reduced(self, node: Mapping[str, Any]) -> Instance:
        kind = self._kind
        state = {"state": self.read(node["content"], "state")}
        state["args"] = self.read(node["__reduce__"]["args"], "args")
        return self._make(kind, checks.check_tree if kind == TREE else checks.check_loss_function, state)

    def _random_state(self, node: Mapping[str, Any]) -> Instance:
        kind = self._kind
        return self._make(kind, checks.check_random_state, self.read(node["content"], "state"))

    def _generator(self, node: Mapping[str, Any]) -> Instance:
        kind = self._kind
        state = {name: self.read(node["content"][name], name) for name in ("bit_generator", "seed_seq")}
        return self._make(kind, checks.check_generator, state)


_LOADERS: dict[Any, tuple[frozenset[str], Callable[..., Any]]] = {
    "JsonNode": (frozenset({"builtins.str"}), _Reader._json),
    "ListNode": (frozenset({"builtins.list"}), _Reader._list),
    "TupleNode": (frozenset({"builtins.tuple"}), _Reader._tuple),
    "SliceNode": (frozenset({"builtins.slice"}), _Reader._slice),
    "DictNode": (frozenset({"builtins.dict", "sklearn.utils._bunch.Bunch"}), _Reader._dict),
    "TypeNode": (KEY_TYPES | SCALAR_TYPES, _Reader._type),
    "DTypeNode": (frozenset({"numpy.dtype"}), _Reader._dtype),
    "NdArrayNode": (frozenset({"numpy.ndarray"}) | SCALAR_TYPES, _Reader._array),
    "MaskedArrayNode": (frozenset({"numpy.ma.MaskedArray"}), _Reader._masked),
    "ObjectNode": (frozenset(OBJECTS), _Reader._object),
    "TreeNode": (frozenset({TREE}), _Reader._reduced),
    "LossNode": (LOSS_FUNCTIONS, _Reader._reduced),
    "RandomStateNode": (frozenset({RANDOM_STATE}), _Reader._random_state),
    "RandomGeneratorNode": (frozenset({GENERATOR}), _Reader._generator),
}
"""The kinds of nodes that are read, each with its types. The kind alone decides what skops builds, not the label."""


def _read_key(kind: str, text: str) -> Any:
    """Return the key that skops makes of a text."""
    module, _, name = kind.partition(".")
    return getattr(importlib.import_module(module), name)(text)


@functools.cache
def _read_dtype(text: str) -> "np.dtype[Any]":
    """Return the type of an array's elements. A forest has hundreds of arrays of three types."""
    return np.lib.format.descr_to_dtype(ast.literal_eval(text))


@functools.cache
def _read_class(kind: str) -> tuple[Any, frozenset[str]]:
    """Return a class and the names of its parameters."""
    module, _, name = kind.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    return found, frozenset(inspect.signature(found).parameters)


def _has_attribute(kind: str, name: str) -> bool:
    """Return whether a type has an attribute: a parameter, a private one that its rule names, or one that fit sets."""
    found, parameters = _read_class(kind)
    if name in parameters or name in OBJECTS[kind].private or name in PRIVATE:
        return True
    # An attribute of the object would hide a method or a property of its class.
    return _FITTED.fullmatch(name) is not None and not hasattr(found, name)
