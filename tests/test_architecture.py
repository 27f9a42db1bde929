"""The house: which module knows which, and what the project's own files promise each other."""

import ast
import json
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.stem: path for path in ROOT.glob("*.py")}
SCRIPTS = {f"scripts.{path.stem}": path for path in (ROOT / "scripts").glob("*.py")}
LOCK = {name: section for name, section in json.loads((ROOT / "Pipfile.lock").read_text()).items() if name != "_meta"}


def imports(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checking count as well."""
    files = MODULES | SCRIPTS
    TopologicalSorter({name: imports(path) & set(files) for name, path in files.items()}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_what_the_image_holds_imports_no_scripts(module: str) -> None:
    """The image has only the top-level modules; and none of them needs the handler."""
    names = imports(MODULES[module])
    assert not {name for name in names if name.partition(".")[0] in ("scripts", "tests", "lambda_function")}


def test_the_handler_fits_on_two_screens() -> None:
    """It is the table of contents: whoever reads it knows the system."""
    assert len(MODULES["lambda_function"].read_text().splitlines()) < 120


def test_the_dockerfile_copies_every_module() -> None:
    """A forgotten one would only be missed at a cold start."""
    copied = (ROOT / "Dockerfile").read_text()
    assert [name for name in MODULES if f"{name}.py" not in copied] == []


def test_the_locks_categories_agree() -> None:
    """They are installed together, so each package has one version in all of them."""
    versions: dict[str, set[str]] = {}
    for section in LOCK.values():
        for name, package in section.items():
            versions.setdefault(name, set()).add(package["version"])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_lock_has_hashes_for_everything() -> None:
    """No file but the very one that was locked is ever installed."""
    assert [name for section in LOCK.values() for name, package in section.items() if not package.get("hashes")] == []


def test_the_pipfile_has_a_shortcut_for_each_tool() -> None:
    """And for nothing that does not exist."""
    shortcuts = tomllib.loads((ROOT / "Pipfile").read_text())["scripts"]
    tools = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
    assert shortcuts == {tool: f"./scripts/{tool}" for tool in tools - {"environment"}}
