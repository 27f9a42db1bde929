"""Print a command's help without any package: ``python -S -m scripts.help_page MODULE [ARG ...] --help``.

On a bare clone, ``--help`` would otherwise install packages first. Commands import packages, but no help text depends
on their content. So the command runs with placeholders for all packages, until its parser prints the help and exits.
"""

import importlib.abc
import importlib.machinery
import runpy
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any


class _PlaceholderType(type):
    """Makes a class usable as all that a package offers: a base class, a function, a decorator, a type's argument."""

    def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any], **_: object) -> "_PlaceholderType":
        return super().__new__(cls, name, bases, members)

    def __init__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any], **_: object) -> None:
        super().__init__(name, bases, members)

    def __getattr__(cls, name: str) -> type:
        return _placeholder(name)

    def __call__(cls, *_: object, **__: object) -> type:
        return Placeholder

    def __getitem__(cls, _: object) -> type:
        return Placeholder

    def __iter__(cls) -> Iterator[type]:
        return iter(())


class Placeholder(Exception, metaclass=_PlaceholderType):  # noqa: N818
    """Stands for everything in a package. It is an exception, because "except" accepts only exceptions."""


def _placeholder(name: str) -> type:
    # Python looks for special methods on every object, and would call the placeholder.
    if name.startswith("__"):
        raise AttributeError(name)
    return Placeholder


class _PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of placeholders for each import that nothing else finds, except optional parts of Python."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in sys.stdlib_module_names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__getattr__ = _placeholder  # type: ignore[method-assign]


def show(arguments: Sequence[str]) -> None:
    """Run a module, whose name is the first argument, with the other arguments. Its parser exits."""
    sys.meta_path.append(_PlaceholderFinder())
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    show(sys.argv[1:])
