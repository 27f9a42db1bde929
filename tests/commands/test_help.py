"""--help: the true text of every launcher, at once, also on a bare clone where no package is installed yet."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import ROOT

COMMANDS = sorted(path.stem.replace("_", "-") for path in ROOT.glob("scripts/commands/[!_]*.py"))


@pytest.fixture(scope="module")
def bare_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project without an environment."""
    clone = tmp_path_factory.mktemp("bare") / "a clone"
    for part in ("scripts", "batch", "served", "streaming", "web"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.py"), ROOT / "Pipfile.lock", ROOT / "samconfig.toml"):
        shutil.copy(file, clone)
    return clone


def ask(clone: Path, *arguments: str) -> str:
    """Return what a launcher of the clone prints to stdout. It prints nothing else, and makes no environment."""
    launcher, *rest = arguments
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
    command = [str(clone / "scripts" / launcher), *rest]
    done = subprocess.run(command, cwd=clone.parent, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert not (clone / ".venv").exists()
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_without_packages_is_the_commands_own(
    name: str, bare_clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser itself prints the help, so it cannot be out of date."""
    module = importlib.import_module(f"scripts.commands.{name.replace('-', '_')}")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        module.parse_arguments()
    assert ask(bare_clone, name, "--help") == capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["test", "-h"], ["test", "--quick", "tests/core", "--help"], ["environment", "--help"]]
)
def test_help_of_the_other_launchers_is_their_comment(arguments: list[str], bare_clone: Path) -> None:
    """``--help`` of environment and test runs no check, and installs nothing."""
    comment = [line[2:] for line in (ROOT / "scripts" / arguments[0]).read_text().splitlines() if line.startswith("# ")]
    lines = ask(bare_clone, *arguments).splitlines()
    assert lines[0].startswith(f"{arguments[0]} ")
    assert lines == comment[: len(lines)]
