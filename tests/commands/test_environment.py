"""scripts/environment: makes the environment from the lock, on machines that have little else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.environment import PipError, locked_packages, pip, requirement, requirements

ROOT = Path(__file__).parents[2]


def fake_python(folder: Path, name: str, *, version: str) -> None:
    """Make an interpreter that is too old: it fails the version check, and prints its version."""
    file = folder / name
    file.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    file.chmod(0o755)


def clone(folder: Path) -> Path:
    """Copy what scripts/environment needs into a folder, whose name has a space."""
    project = folder / "a clone"
    (project / "scripts").mkdir(parents=True)
    for name in ("environment", "environment.py", "launcher.py", "interrupts.py"):
        shutil.copy(ROOT / "scripts" / name, project / "scripts")
    shutil.copy(ROOT / "Pipfile.lock", project)
    return project


def run(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the clone's scripts/environment with these environment variables alone."""
    command = [str(project / "scripts" / "environment"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def tools(folder: Path) -> Path:
    """Make a folder for PATH with the commands that the script calls, and no Python."""
    folder.mkdir()
    for name in ("bash", "dirname"):
        found = next(place for place in ("/bin", "/usr/bin") if Path(place, name).exists())
        (folder / name).symlink_to(Path(found, name))
    return folder


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    """The message names the versions that will do, and the one that is installed."""
    path = tools(tmp_path / "bin")
    fake_python(path, "python3", version="3.9.18")
    done = run(clone(tmp_path), "stack", "--", "true", PATH=str(path))
    assert done.returncode == 1
    assert done.stderr == "This project needs Python 3.11, 3.12 or 3.13; here is Python 3.9.18.\n"


def test_no_python_at_all_is_one_line(tmp_path: Path) -> None:
    """The message says that there is no Python."""
    done = run(clone(tmp_path), "stack", "--", "true", PATH=str(tools(tmp_path / "bin")))
    assert done.returncode == 1
    assert done.stderr == "This project needs Python 3.11, 3.12 or 3.13; here is no python3.\n"


def test_a_python_without_venv_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    """Debian and Ubuntu have ensurepip in a package of its own."""
    path = tools(tmp_path / "bin")
    (path / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (tmp_path / "ensurepip.py").write_text("raise ImportError\n")
    done = run(clone(tmp_path), "stack", "--", "true", PATH=str(path), PYTHONPATH=str(tmp_path))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"apt install python{version}-venv" in done.stderr


def test_an_environment_behind_a_link_is_not_emptied(tmp_path: Path) -> None:
    """It may be another project's, and it looks like an own one that was made for another folder."""
    project, other = clone(tmp_path), tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    (project / ".venv").symlink_to(other)
    done = run(project, "stack", "--", "true", PATH=os.environ["PATH"])
    assert done.returncode == 1
    explanation = "is a link, and its target would be emptied: remove the link, then run this again."
    assert done.stderr == f"{project / '.venv'} {explanation}\n"
    assert (other / "kept").exists()


def test_a_command_runs_in_the_environment_wherever_it_is_called_from(tmp_path: Path) -> None:
    """The command keeps the working folder, so that relative file names stay valid; modules there do not count."""
    (tmp_path / "rides.py").write_text("raise AssertionError\n")
    command = [str(ROOT / "scripts" / "environment"), "dev-packages", "--", "python", "-c"]
    code = "import os, sys, rides; print(os.getcwd(), sys.prefix, os.environ['VIRTUAL_ENV'])"
    done = subprocess.run([*command, code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [os.path.realpath(tmp_path), str(ROOT / ".venv"), str(ROOT / ".venv")]


@pytest.mark.parametrize("arguments", [[], ["stack"], ["stack", "--"], ["no-such-category", "--", "true"]])
def test_wrong_arguments_end_it_with_one_line(arguments: list[str]) -> None:
    """The command ends before it installs anything."""
    done = subprocess.run(
        [str(ROOT / "scripts" / "environment"), *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1


def test_a_requirement_has_its_marker_and_all_its_hashes() -> None:
    """Pip reads the line from a requirements file."""
    package = {"version": "==1.0", "markers": "python_version >= '3.11'", "hashes": ["sha256:aa", "sha256:bb"]}
    assert requirement("thing", package) == ("thing==1.0 ; python_version >= '3.11' --hash=sha256:aa --hash=sha256:bb")


def test_categories_are_put_together() -> None:
    """The stack needs the function's own packages too."""
    both = locked_packages(["packages", "stack"])
    assert {"boto3", "moto", "safetensors"} <= set(both)
    assert both.keys().isdisjoint({"scikit-learn", "mlflow"})


def test_printed_requirements_are_the_lock_with_all_its_hashes() -> None:
    """The Dockerfile installs from them; it runs the file as here, with the standard library alone."""
    command = [sys.executable, "-S", "scripts/environment.py", "--requirements", "packages", "training"]
    lines = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    packages = locked_packages(["packages", "training"])
    assert [line.partition("==")[0] for line in lines] == list(packages)
    assert [line.count("--hash=sha256:") for line in lines] == [len(one["hashes"]) for one in packages.values()]
    assert lines == requirements(["packages", "training"])


def test_the_error_of_pip_is_the_end_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that would send packages to another place do not reach pip."""
    monkeypatch.setenv("PIP_TARGET", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lines: list[str] = []
    with pytest.raises(PipError, match=r"No matching distribution found for nowhere==1\.0"):
        pip(["install", "--dry-run"], [f"nowhere==1.0 --hash=sha256:{'0' * 64}"], on_line=lines.append)
    assert lines
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_pip_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip itself says that no version exists."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(PipError, match=r"^no connection to the package index: .*Connection refused.*$"):
        pip(["install", "--dry-run"], [f"nowhere==1.0 --hash=sha256:{'0' * 64}"])
