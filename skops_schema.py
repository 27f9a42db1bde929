"""The check of a skops file that no digest vouches for: nothing in it may run code, crash or loop forever.

A skops file is a zip file: ``schema.json`` describes a tree of nodes, and each array is a file of its own. skops itself
vouches for the types of the objects that it builds, not for their attributes. An attribute can be a function that
``predict`` calls, or an index that compiled code follows without a look. So this module reads the nodes as skops does,
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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn

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
"""Bytes of ``schema.json``. That of 100,000 features has half of them."""
_MAX_UNPACKED, _MAX_RATIO = 2**26, 20
"""Bytes that a file may always unpack to, and how many times its own size if that is more."""
_MAX_NODES = 2**20
_MAX_DEPTH = 60
"""Nodes inside each other. An estimator in an estimator takes four; skops needs several calls of Python for each."""
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
    """A skops file holds what is only loaded with a digest. The message is one line and ends with the setting."""


def check_schema(file: BinaryIO) -> None:
    """Raise SchemaError unless loading the skops file and predicting with it is safe.

    Args:
        file: the very file that skops loads afterwards. It is read from its beginning, and rewound.

    Raises:
        SchemaError: if it is not safe. A file that is no skops file raises what zipfile and json raise.
    """
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        _check_archive(archive, size)
        _Reader(archive).check(json.loads(archive.read("schema.json")))
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
        self._path: list[str] = []
        self._kind = ""
        """The type in the label of the node that is being read."""
        self._opened: set[int] = set()
        self._values: dict[int, tuple[Any, list[str], int]] = {}
        self._size = 0
        """The number of nodes in the value that is being read."""
        self._parts: list[str] = []
        """What the value that is being read holds besides plain values: types of instances, and what PARTS names."""

    def check(self, schema: Any) -> None:
        """Raise SchemaError unless the tree of nodes is an estimator that is safe."""
        try:
            protocol = schema.get("protocol")
            # Other protocols read the same nodes in other ways.
            if type(protocol) is not int or protocol not in _PROTOCOLS:
                self._refuse(f"has the protocol {protocol!r}, which is not one of {_PROTOCOLS}")
            if not isinstance(self.read(schema, str(schema.get("__class__"))), Instance):
                self._refuse("is no estimator")
        except SchemaError:
            raise
        except Exception as error:
            self._refuse(f"cannot be read: {type(error).__name__}: {error}")

    def read(self, node: Any, part: str) -> Any:
        """Return a node's value; ``part`` is how it is called in the node around it."""
        # After a failure the path stays as it is, because the error names it.
        self._path.append(part)
        if len(self._path) > _MAX_DEPTH:
            self._refuse(f"is more than {_MAX_DEPTH} nodes deep")
        identity = self._identify(node)
        # skops takes the first node of an id for every other of that id, whatever the others say. It goes through the
        # nodes in the order of this class.
        if identity not in self._values:
            types, read = self._open(node, identity)
            if self._kind not in types:
                self._refuse("is not of a type that is safe without a digest")
            around, self._parts = self._parts, []
            before, self._size = self._size, 1
            self._values[identity] = read(self, node), self._parts, self._size
            self._parts, self._size = around, before
        value, parts, size = self._values[identity]
        # A node that is used many times counts as many: nested, a few of them would make a model without end.
        self._size += size
        if self._size > _MAX_NODES:
            self._refuse(f"has more than {_MAX_NODES:,} nodes")
        self._parts.extend(parts)
        self._path.pop()
        return value

    def _identify(self, node: Any) -> int:
        """Return a node's id, and remember its type for a refusal."""
        if not isinstance(node, dict):
            self._refuse("is not a node")
        self._kind = f"{node.get('__module__')}.{node.get('__class__')}"
        identity = node.get("__id__")
        if type(identity) is not int or identity <= 0:
            self._refuse("has no __id__")
        return identity

    def _open(self, node: Mapping[str, Any], identity: int) -> tuple[frozenset[str], Callable[..., Any]]:
        """Return the types that a node of this kind may have, and the method that reads it."""
        if identity in self._opened:
            self._refuse("holds itself")
        self._opened.add(identity)
        loader = node.get("__loader__")
        if loader not in _LOADERS:
            self._refuse(f"is a {loader}, which can run code")
        return _LOADERS[loader]

    def _refuse(self, reason: str) -> NoReturn:
        # Names come from the file, and the line goes to a log or a terminal.
        text = " ".join(f"{''.join(part[:80] for part in self._path)} ({self._kind[:120]}) {reason[:300]}".split())
        raise SchemaError(f"{''.join(c if c.isprintable() else '?' for c in text)}: {_ONLY_PINNED}")

    def _json(self, node: Mapping[str, Any]) -> Any:
        content = node["content"]
        # A text that begins so is no scalar, and nested lists could be deeper than Python's stack.
        if not isinstance(content, str) or content[:1] in ("", "[", "{", " ", "\t", "\n", "\r"):
            self._refuse("is not a plain value")
        value = json.loads(content)
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            self._refuse("is too large a number")
        return value

    def _list(self, node: Mapping[str, Any]) -> list[Any]:
        content = node["content"]
        if not isinstance(content, list):
            self._refuse("is not a list")
        return [self.read(item, f"[{index}]") for index, item in enumerate(content)]

    def _tuple(self, node: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self._list(node))

    def _slice(self, node: Mapping[str, Any]) -> slice:
        ends = [node["content"][name] for name in ("start", "stop", "step")]
        if any(type(end) not in (int, str, type(None)) for end in ends):
            self._refuse("is not a slice of numbers or names")
        return slice(*ends)

    def _dict(self, node: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value, _ in self._items(node, KEY_TYPES)}

    def _items(self, node: Mapping[str, Any], key_types: frozenset[str]) -> Iterator[tuple[str, Any, list[str]]]:
        """Yield the keys of a dict as texts, its values, and what each of those holds besides plain values."""
        content, types = node["content"], node["key_types"]
        around, self._parts = self._parts, []
        kinds = self.read(types, ".key_types")
        # skops calls each type with its key.
        if not isinstance(content, dict) or self._parts != [TYPE] * len(content) or not key_types.issuperset(kinds):
            self._refuse("is not a dict, or has keys of other types than it may have")
        for key, item in content.items():
            self._parts = []
            value = self.read(item, f".{key}")
            around += self._parts
            yield key, value, self._parts
        self._parts = around

    def _type(self, _: Mapping[str, Any]) -> str:
        self._parts.append(TYPE)
        return self._kind

    def _dtype(self, node: Mapping[str, Any]) -> str:
        kind = self._kind
        array = self.read(node["content"], ".dtype")
        if not isinstance(array, Array) or array.shape != (0,):
            self._refuse("is not the type of an array")
        self._parts = [TYPE]
        return kind

    def _array(self, node: Mapping[str, Any]) -> Array:
        scalar = self._kind != "numpy.ndarray"
        if node["type"] == "json" and not scalar:
            return self._object_array(node)
        # One array, one file: otherwise a small file could be read thousands of times.
        if node["type"] != "numpy" or node["file"] != f"{node['__id__']}.npy":
            self._refuse("is not an array in a file of its own")
        entry = self._archive.getinfo(node["file"])
        with self._archive.open(entry) as file:
            head = file.read(10)
            size = int.from_bytes(head[8:], "little")
            header = _HEADER.fullmatch(file.read(size).decode("latin-1"))
        if head[:8] != b"\x93NUMPY\x01\x00" or not header:
            self._refuse("is an array of a kind that is not safe")
        shape = tuple(int(number) for number in header[2].replace(",", " ").split())
        dtype, start = header[1], len(head) + size
        self._parts += [RECORDS] if dtype.startswith("[") else []
        record = np.lib.format.descr_to_dtype(ast.literal_eval(dtype))
        if entry.file_size != start + math.prod(shape) * record.itemsize or (scalar and shape):
            self._refuse("is an array of another size than its header says")
        return Array(record, shape, lambda: np.frombuffer(self._archive.read(entry), record, offset=start))

    def _object_array(self, node: Mapping[str, Any]) -> Array:
        items = self._list(node)
        shape = self.read(node["shape"], ".shape")
        rows = [item for item in items if isinstance(item, list)]
        if len(shape) == 2 and any(isinstance(item, list | tuple | dict | Array) for row in rows for item in row):
            self._refuse("is an array of more dimensions than its shape says")
        if shape != ((len(items),) if len(shape) == 1 else (len(rows), shape[1])) or len(rows) not in (0, len(items)):
            self._refuse("is an array of another shape than it says")
        if any(len(row) != shape[-1] for row in rows):
            self._refuse("is an array of rows that differ in length")
        self._parts.append(INSTANCES if self._parts else OBJECT_ARRAY)
        return Array(np.dtype(object), shape, lambda: items)

    def _masked(self, node: Mapping[str, Any]) -> None:
        for name in ("data", "mask"):
            self.read(node["content"][name], f".{name}")
        self._parts = [MASKED]

    def _object(self, node: Mapping[str, Any]) -> Instance:
        kind, content = self._kind, node["content"]
        identity, attributes = self._identify(content), {}
        if content.get("__loader__") != "DictNode" or self._kind != "builtins.dict" or identity in self._values:
            if self.read(content, "") is not None:
                self._refuse("has attributes that are not its own")
        else:
            self._open(content, identity)
            for name, value, parts in self._items(content, _NAMES):
                self._kind = kind
                self._check_attribute(kind, name, parts)
                attributes[name] = value
            self._values[identity] = attributes, self._parts, self._size
        return self._make(kind, OBJECTS[kind].check, attributes)

    def _check_attribute(self, kind: str, name: str, parts: list[str]) -> None:
        if not _has_attribute(kind, name):
            self._refuse(f"has an attribute {name}, which is not one of this type")
        if unexpected := set(parts) - OBJECTS[kind].parts.get(name, PARTS.get(name, frozenset())):
            self._refuse(f"has in its attribute {name} {min(unexpected)}")

    def _make(self, kind: str, check: Callable[[Mapping[str, Any]], None], state: Mapping[str, Any]) -> Instance:
        """Return an instance after a look at what its compiled code takes for granted."""
        self._kind, self._parts = kind, [kind]
        try:
            check(state)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            self._refuse(f"is not consistent: {type(error).__name__}: {error}")
        return Instance(kind, state)

    def _reduced(self, node: Mapping[str, Any]) -> Instance:
        kind = self._kind
        state = {"state": self.read(node["content"], ".state")}
        state["args"] = self.read(node["__reduce__"]["args"], ".args")
        return self._make(kind, checks.check_tree if kind == TREE else checks.check_loss_function, state)

    def _random_state(self, node: Mapping[str, Any]) -> Instance:
        kind = self._kind
        return self._make(kind, checks.check_random_state, self.read(node["content"], ".state"))

    def _generator(self, node: Mapping[str, Any]) -> Instance:
        kind = self._kind
        state = {name: self.read(node["content"][name], f".{name}") for name in ("bit_generator", "seed_seq")}
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
"""The kinds of nodes that are read, each with its types. A label says little: it is the kind that skops builds."""


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
