"""The architecture: which module may import which, and what the project's own files promise each other."""

import ast
import importlib.metadata
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from scripts import pythons
from scripts.image.checks import copied_files

ROOT = Path(__file__).parents[1]
LAYERS = [
    ["arns"],
    ["clients"],
    ["rides", "artifacts", "proofs", "skops_checks", "served", "targets"],
    ["features", "settings", "skops_types", "digests", "pickled_code", "forests", "linear_models"],
    ["skops_schema", "model_metadata", "trip_cells"],
    ["sklearn_flavor", "baselines"],
    ["ride_counts"],
    ["drift"],
    ["flavors"],
    ["model", "trips"],
    ["streaming", "web", "batch"],
    ["lambda_function", "web_service", "batch_job", "gunicorn.conf"],
    ["batch_flow"],
    ["scripts.environment", "scripts.interrupts", "scripts.serving", "scripts.help_page"],
    ["scripts.cli", "scripts.density", "scripts.launcher"],
    ["scripts.sources", "scripts.pythons", "scripts.flow_runs"],
    ["scripts.aws"],
    ["scripts.models", "scripts.scoring", "scripts.localaws"],
    ["scripts.watching"],
    ["scripts.benchmark", "scripts.image", "scripts.live"],
    ["scripts.commands", "scripts.sample_model"],
    ["scripts.start", "locustfile"],
]
"""From the bottom up. A module imports modules of its own package, or of a layer below its own."""
ENTRY_POINTS = ["lambda_function", "web_service", "batch_job"]
FENCES = {
    "uvicorn": ["web.protocol", "web.worker"],
    "gunicorn": ["web.worker"],
    "flask": ["web", "web_service", "scripts.localaws.moto", "scripts.benchmark"],
    "prefect": ["batch_flow", "scripts.models.retraining_flow"],
    "prefect_dask": ["batch_flow"],
    "moto": ["scripts.localaws.moto"],
    "pyarrow": [
        *("trips", "trip_cells", "batch", "scripts.models", "scripts.scoring.sums", "scripts.benchmark.batch_files"),
        *("scripts.image.trip_files", "scripts.watching.outputs", "scripts.watching.raw_rows"),
    ],
    "matplotlib": [
        *("scripts.density", "scripts.benchmark.plot", "scripts.models.plots", "scripts.scoring.plots"),
        "scripts.watching.plots",
    ],
    "evidently": ["scripts.watching.evidently_report"],
    "mlflow": ["flavors", "scripts.models", "scripts.benchmark"],
    "boto3": ["scripts"],
    "botocore": ["artifacts", "batch", "clients", "scripts", "streaming"],
    "rich": ["scripts"],
}
"""Packages that only these modules or packages may import."""
PACKAGES = ("scripts", "served", "streaming", "web", "batch")
MAX_LINES, MIN_LINES, MAX_COMMAND_LINES, MAX_HANDLER_LINES = 400, 25, 220, 119

STATIC_FILES = {str(path.relative_to(ROOT)) for path in (ROOT / "web" / "static").iterdir()}

SINGLE_LITERALS = [r"aws/lambda/", r"shardId-\d+", "ride_events", "ride_predictions"]
"""Texts that stand in one string of the code alone."""
LOCK = {name: section for name, section in json.loads((ROOT / "Pipfile.lock").read_text()).items() if name != "_meta"}


def find_modules(*patterns: str) -> dict[str, Path]:
    """Return the files that match, by the name under which Python imports them."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


PRODUCT = find_modules("*.py", "served/*.py", "streaming/*.py", "web/*.py", "batch/*.py")
SCRIPTS = find_modules("scripts/**/*.py")
CODE = PRODUCT | SCRIPTS
TESTS = find_modules("tests/**/*.py")
TREES = {name: ast.parse(path.read_text()) for name, path in (CODE | TESTS).items()}
LAUNCHERS = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}


def find_imports(name: str, known: Iterable[str] | None = None, *, only_at_start: bool = False) -> set[str]:
    """Return the modules that a module imports, anywhere in it and for type checking too; of those known, if given.

    If ``only_at_start``, these are the modules that are always imported with it.
    """
    names: set[str] = set()
    for node in TREES[name].body if only_at_start else ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names if known is None else names & set(known)


def is_part_of(name: str, package: str) -> bool:
    """Return whether a name is a package's own or that of something in it."""
    return name == package or name.startswith(f"{package}.")


def find_layer(name: str) -> tuple[int, str]:
    """Return the number of a module's layer and the package in it that the module is part of."""
    found = [(level, part) for level, parts in enumerate(LAYERS) for part in parts if is_part_of(name, part)]
    assert len(found) == 1, f"{name} is in {len(found)} layers: give it one in LAYERS"
    return found[0]


def find_closure(name: str) -> set[str]:
    """Return a module, the modules of the project that it imports, those that they import, and their packages."""
    found, pending = set(), [name]
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending += find_imports(module, CODE)
            pending += [module.rpartition(".")[0]] if module.rpartition(".")[0] in CODE else []
    return found


def find_not_installed(name: str, categories: Iterable[str]) -> list[str]:
    """Return the packages that are imported with a module, at its start, and are in none of the lock's categories."""
    found, pending = set[str](), [name]
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending += find_imports(module, CODE, only_at_start=True)
    packages = {imported.partition(".")[0] for module in found for imported in find_imports(module, only_at_start=True)}
    distributions = importlib.metadata.packages_distributions()
    wanted = {owner.lower().replace("_", "-") for package in packages for owner in distributions.get(package, [])[:1]}
    return sorted(wanted - {package for category in categories for package in LOCK[category]})


def find_strings(name: str) -> Iterator[str]:
    """Yield the strings of a module but for its docstrings and the like, which only explain."""
    explaining = {id(node.value) for node in ast.walk(TREES[name]) if isinstance(node, ast.Expr)}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explaining:
            yield node.value


def count_lines(path: Path) -> int:
    """Return the number of a file's lines."""
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("name", [name for name in CODE if name not in PACKAGES])
def test_a_module_imports_its_own_package_or_lower_layers(name: str) -> None:
    """Arrows point down only."""
    level, package = find_layer(name)
    imported = {other: find_layer(other) for other in find_imports(name, CODE) if other not in PACKAGES}
    assert [other for other, (below, part) in imported.items() if below >= level and part != package] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checking count as well."""
    TopologicalSorter({name: find_imports(name, CODE) - {name} for name in CODE}).prepare()


def test_nothing_in_the_product_imports_an_entry_point() -> None:
    """An entry point imports the core, and no other entry point. Only the batch job has a second one, its flow."""
    users = {name: found for name in PRODUCT if (found := find_imports(name, ENTRY_POINTS))}
    assert users == {"batch_flow": {"batch_job"}}


def test_only_the_lambda_function_imports_its_streaming_modules() -> None:
    """A web service and a batch job know nothing of Kinesis."""
    others = [name for name in PRODUCT if name != "lambda_function" and not is_part_of(name, "streaming")]
    assert [name for name in others if any(is_part_of(found, "streaming") for found in find_imports(name))] == []


@pytest.mark.parametrize(("package", "allowed"), FENCES.items())
def test_a_package_is_imported_only_inside_its_fence(package: str, allowed: list[str]) -> None:
    """Each such package costs a cold start, or makes a module depend on something that it does not need."""
    users = [name for name in CODE if any(is_part_of(imported, package) for imported in find_imports(name))]
    assert [name for name in users if not any(is_part_of(name, place) for place in allowed)] == []


@pytest.mark.parametrize(
    ("target", "entry_points", "others"),
    [
        ("lambda", ["lambda_function"], set()),
        ("web", ["web_service", "web.worker"], {"gunicorn.conf.py", *STATIC_FILES}),
        ("batch", ["batch_job", "batch_flow"], set()),
    ],
    ids=["lambda", "web", "batch"],
)
def test_an_image_has_the_files_that_its_entry_points_import(
    target: str, entry_points: list[str], others: set[str]
) -> None:
    """Neither one more nor one less: a missing file would only show at a cold start."""
    modules = {name for entry_point in entry_points for name in find_closure(entry_point)}
    assert copied_files(target) == {str(PRODUCT[name].relative_to(ROOT)) for name in modules} | others


def test_launchers_commands_shortcuts_and_their_list_agree() -> None:
    """`ls scripts` is the menu: what is in it can be run, by Pipenv too, and is explained."""
    commands = {path.stem.replace("_", "-") for path in ROOT.glob("scripts/commands/[!_]*.py")}
    shortcuts = tomllib.loads((ROOT / "Pipfile").read_text())["scripts"]
    listed = set(re.findall(r"^\| `\./scripts/([\w-]+)", (ROOT / "scripts" / "README.md").read_text(), re.MULTILINE))
    assert commands == LAUNCHERS - {"test", "environment"}
    assert shortcuts == {name: f"./scripts/{name}" for name in LAUNCHERS - {"environment"}}
    assert listed == LAUNCHERS


@pytest.mark.parametrize("name", sorted(LAUNCHERS - {"test", "environment"}))
def test_a_launcher_has_four_lines_one_of_them_a_comment(name: str) -> None:
    """It says what the command does, and starts it."""
    interpreter, comment, strict, start = (ROOT / "scripts" / name).read_text().splitlines()
    assert (interpreter, strict) == ("#!/usr/bin/env bash", "set -euo pipefail")
    assert comment.startswith("# ")
    assert f"python -m scripts.start {name} " in start


@pytest.mark.parametrize("name", sorted(LAUNCHERS - {"test", "environment"}))
def test_a_command_that_loads_models_installs_scikit_learn(name: str) -> None:
    """A model without a served form needs scikit-learn, and users have such models."""
    start = (ROOT / "scripts" / name).read_text().splitlines()[-1]
    categories = start.partition('environment" ')[2].partition(" -- ")[0].split()
    is_installed = any("scikit-learn" in LOCK[category] for category in categories)
    assert is_installed or "model" not in find_closure(f"scripts.commands.{name.replace('-', '_')}")


@pytest.mark.parametrize("name", sorted(LAUNCHERS - {"test", "environment"}))
def test_a_command_installs_what_it_imports_at_its_start(name: str) -> None:
    """In an environment that has only its categories, the command starts."""
    start = (ROOT / "scripts" / name).read_text().splitlines()[-1]
    categories = ["default", *start.partition('environment" ')[2].partition(" -- ")[0].split()]
    assert find_not_installed(f"scripts.commands.{name.replace('-', '_')}", categories) == []


def test_the_page_about_your_own_event_installs_what_its_training_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test that follows the page has all packages; a reader has those of the categories."""
    page = (ROOT / "docs" / "your-own-event.md").read_text()
    for file, text in re.findall(r"^`([\w/]+)\.py`, the whole file:\n\n```python\n(.*?)^```$", page, re.M | re.S):
        monkeypatch.setitem(TREES, file.replace("/", "."), ast.parse(text))
    ((categories, module),) = re.findall(r"^\$ \./scripts/environment ([\w ]+) -- python -m (\S+)$", page, re.M)
    monkeypatch.setitem(CODE, module, ROOT)
    assert find_not_installed(module, ["default", *categories.split()]) == []


def test_commands_import_no_command() -> None:
    """What two commands need is in a package below them."""
    commands = [name for name in SCRIPTS if fnmatch(name, "scripts.commands.*")]
    assert {name: found for name in commands if (found := find_imports(name, commands))} == {}


@pytest.mark.parametrize("name", [name for name in CODE | TESTS if (CODE | TESTS)[name].name != "__init__.py"])
def test_a_module_is_neither_too_long_nor_too_short(name: str) -> None:
    """A longer one has two subjects, and a shorter one is part of another."""
    most = MAX_COMMAND_LINES if name.startswith("scripts.commands.") else MAX_LINES
    most = MAX_HANDLER_LINES if name == "lambda_function" else most
    assert MIN_LINES <= count_lines((CODE | TESTS)[name]) <= most


def test_a_public_class_name_has_one_meaning() -> None:
    """Whoever reads a name knows which class it is."""
    classes = [
        node.name
        for name in CODE
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [name for name, count in Counter(classes).items() if count > 1] == []


@pytest.mark.parametrize("literal", SINGLE_LITERALS)
def test_a_literal_has_one_place(literal: str) -> None:
    """Every other module imports it from there."""
    users = [name for name in CODE for text in find_strings(name) if re.search(literal, text)]
    assert len(users) == 1, users


def test_the_locks_categories_agree() -> None:
    """Categories are installed together, so each package has one version in all of them, except in ``monitoring``."""
    versions: dict[str, set[str]] = {}
    for section in (packages for category, packages in LOCK.items() if category != pythons.MONITORING):
        for name, package in section.items():
            versions.setdefault(name, set()).add(package["version"])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_lock_has_hashes_for_everything() -> None:
    """No file is ever installed but the one that was locked."""
    assert [name for section in LOCK.values() for name, package in section.items() if not package.get("hashes")] == []
