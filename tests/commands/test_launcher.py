"""scripts/launcher.py: which environment is used, what it lacks, and how an installation ends."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import launcher
from tests.tools import PATIENCE, ROOT, Tool, wait_for

PACKAGE = "a-thing"
INTERRUPTED = 130
LINE = "environment: interrupted; the next command installs the rest\n"
START = ["python", "-m", "scripts.start", "train"]


def write_wheel(folder: Path) -> str:
    """Write a package of one module, and return the file's digest."""
    file = folder / "a_thing-1.0-py3-none-any.whl"
    information = {
        "METADATA": "Metadata-Version: 2.1\nName: a-thing\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "a_thing.py,,\n",
    }
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("a_thing.py", "")
        for name, text in information.items():
            wheel.writestr(f"a_thing-1.0.dist-info/{name}", text)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project that needs one package, which lies in a folder, and a package for no machine."""
    project = (tmp_path / "a project").resolve()
    (project / "scripts").mkdir(parents=True)
    for name in ("environment", "environment.py", "launcher.py", "interrupts.py"):
        shutil.copy(ROOT / "scripts" / name, project / "scripts")
    locked = {"version": "==1.0", "hashes": [f"sha256:{write_wheel(tmp_path)}"]}
    elsewhere = {**locked, "markers": "sys_platform == 'nowhere'"}
    (project / "Pipfile.lock").write_text(json.dumps({"default": {PACKAGE: locked, "elsewhere": elsewhere}}))
    return project


def start(project: Path, *command: str, **variables: str) -> Tool:
    """Start a command in the project's environment. pip finds packages in the folder, unless variables say more."""
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project.parent)}
    return Tool(
        [str(project / "scripts" / "environment"), "--", *command],
        env={"PATH": path, "HOME": str(project.parent), **offline, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's environment."""
    with start(project, *command, **variables) as tool:
        stdout, stderr = tool.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(command, tool.returncode, stdout, stderr)


IMPORT = ("python", "-c", "import sys, a_thing; print(sys.prefix)")


def folder_of(environment: Path) -> Path:
    """Return the folder of an environment's packages."""
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def add_package(environment: Path, information: str, *, complete: bool = True) -> None:
    """Put a package's metadata into an environment, as installers do; INSTALLER is the last file."""
    folder = folder_of(environment) / information
    folder.mkdir(parents=True)
    (folder / "METADATA").touch()
    if complete:
        (folder / "INSTALLER").touch()


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Make a virtual environment without packages, as another tool does."""
    venv.create(tmp_path / "environment", symlinks=True)
    return tmp_path / "environment"


def lock(version: str = "1.0") -> dict[str, dict[str, Any]]:
    """Return what the lock says of one package."""
    return {"A.Thing": {"version": f"=={version}", "hashes": []}}


@pytest.mark.parametrize(
    ("information", "complete", "version", "is_missing"),
    [
        ("a_thing-1.0.dist-info", True, "1.0", False),
        ("A.Thing-1.0.dist-info", True, "1.0", False),
        ("a_thing-1.0.dist-info", True, "1.0.1", True),
        ("a_thing-1.0.dist-info", False, "1.0", True),
        ("a_thing_else-1.0.dist-info", True, "1.0", True),
    ],
    ids=["installed", "spelt in another way", "another version", "interrupted", "a longer name"],
)
def test_a_package_counts_if_its_metadata_has_the_locked_version(
    information: str, complete: bool, version: str, is_missing: bool, environment: Path
) -> None:
    """It does not matter which tool installed the package."""
    add_package(environment, information, complete=complete)
    assert bool(launcher.find_missing(environment, lock(version))) == is_missing


@pytest.mark.parametrize(
    ("owner", "has_package", "is_used"),
    [("this", False, True), ("other", False, False), (None, False, False), (None, True, True), ("other", True, True)],
)
def test_the_active_environment_is_used_if_it_is_the_projects_or_lacks_nothing(
    owner: str | None, has_package: bool, is_used: bool, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipenv's users have one environment. No package is installed into an environment of another project."""
    monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    if owner:
        (environment / ".project").write_text(f"{ROOT if owner == 'this' else environment}\n")
    if has_package:
        add_package(environment, "a_thing-1.0.dist-info")
    assert launcher.choose_environment(lock()) == (environment if is_used else ROOT / ".venv")


@pytest.mark.parametrize("state", ["no Python", "a Python that is too old", "moved"])
def test_an_environment_that_cannot_be_used_is_replaced_only_if_it_is_our_own(
    state: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipenv, uv and people make .venv too, and may have other packages in it."""
    made = [str(environment), *sys.version_info[:2]]
    if state == "a Python that is too old":
        monkeypatch.setattr(launcher, "SUPPORTED", ((3, 0), (3, 1)))
    elif state == "no Python":
        (environment / "bin" / "python").unlink()
    else:
        made[0] = "/before/it/was/moved/.venv"
    (environment / "kept").touch()
    if state != "moved":  # only our own mark says where it was
        with pytest.raises(SystemExit, match="another tool made it: remove it, then run this again"):
            launcher.create_environment(environment)
        assert (environment / "kept").exists()
    (environment / "installed.json").write_text(json.dumps({"made": made}))
    assert launcher.find_packages_folder(environment) is None
    launcher.create_environment(environment)
    assert not (environment / "kept").exists()
    monkeypatch.undo()
    assert launcher.find_packages_folder(environment) == folder_of(environment)


@pytest.mark.slow
def test_packages_are_installed_once_and_again_after_an_interruption(project: Path) -> None:
    """A second call does not need pip. An installation that was cut off is repeated, though pip would not do that."""
    first = run(project, *IMPORT)
    assert (first.returncode, first.stdout) == (0, f"{project / '.venv'}\n")
    assert first.stderr.splitlines()[0] == "Installing 2 packages into .venv, once"
    again = run(project, *IMPORT, PIP_FIND_LINKS="/nowhere")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    folder = folder_of(project / ".venv")
    (folder / "a_thing.py").unlink()
    (folder / "a_thing-1.0.dist-info" / "INSTALLER").unlink()
    assert run(project, *IMPORT).stdout == first.stdout


@pytest.mark.slow
def test_an_environment_that_pipenv_made_is_completed(project: Path, environment: Path) -> None:
    """Pipenv's environment has no mark, and may lack pip. The packages in it stay."""
    (environment / ".project").write_text(str(project))
    (environment / "kept").touch()
    done = run(project, *IMPORT, VIRTUAL_ENV=str(environment))
    assert (done.returncode, done.stdout) == (0, f"{environment}\n")
    assert done.stderr.splitlines()[0] == f"Installing 2 packages into {environment}, once"
    assert (environment / "kept").exists()
    assert not (project / ".venv").exists()


@contextlib.contextmanager
def silent_index() -> Iterator[tuple[str, socket.socket]]:
    """Listen as a package index that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple", server


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_installation_is_one_line_and_ends_pip(project: Path, number: signal.Signals) -> None:
    """The signal comes to the launcher alone. The next call completes the environment."""
    with silent_index() as (url, server), start(project, *IMPORT, PIP_NO_INDEX="", PIP_INDEX_URL=url) as tool:
        connection, _ = server.accept()
        tool.send_signal(number)
        stdout, stderr = tool.communicate(timeout=PATIENCE)
        connection.settimeout(PATIENCE)
        while connection.recv(4096):
            pass  # what pip asked, until its end closes the connection
    assert (tool.returncode, stdout) == (INTERRUPTED, "")
    assert stderr == f"Installing 2 packages into .venv, once\n{LINE}"
    assert run(project, *IMPORT).returncode == 0


def test_a_signal_while_another_command_installs_is_one_line(project: Path) -> None:
    """The command says that it waits for the other command."""
    folder = os.open(project, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with start(project, *IMPORT) as tool:
            assert tool.stderr
            assert tool.stderr.readline() == "Another command is installing packages: waiting until it ends\n"
            tool.send_signal(signal.SIGINT)
            assert tool.communicate(timeout=PATIENCE) == ("", LINE)
    finally:
        os.close(folder)
    assert tool.returncode == INTERRUPTED
    assert not (project / ".venv").exists()


def test_a_log_tells_the_progress_of_pip(capfd: pytest.CaptureFixture[str]) -> None:
    """Newer versions of pip fetch the metadata of all packages first, which does not count."""
    lines = [
        *(f"Collecting thing{number}==1.0 (from -r x.txt (line {number}))\n" for number in range(20)),
        *(f"  Downloading thing{number}-1.0-py3-none-any.whl.metadata (6.6 kB)\n" for number in range(20)),
    ]
    files = [
        *(f"Downloading thing{number}-1.0-py3-none-any.whl (35.3 MB)\n" for number in range(8)),
        "Using cached thing8-1.0-cp311-cp311-manylinux_2_28_x86_64.whl (1 kB)\n",
        "Processing /folder/of/thing9-1.0.tar.gz (from -r x.txt (line 9))\n",
        "Requirement already satisfied: thing10==1.0\n",
        "Ignoring thing11: markers 'sys_platform == \"nowhere\"' don't match your environment\n",
    ]
    shown = ""

    def shows(text: str) -> bool:
        nonlocal shown
        shown += capfd.readouterr().err
        return text in shown

    with launcher.Progress(20, lambda: 15) as progress:
        for line in [*lines, *files]:
            progress.read(line)
        wait_for(lambda: shows("12 of 20 fetched, 0 installed\n"))
        progress.read("Installing collected packages: thing1, thing2\n")
        wait_for(lambda: shows("20 of 20 fetched, 15 installed\n"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([*START, "file", "--help"], True),
        ([*START, "-h"], True),
        ([*START, "file"], False),
        ([*START, "--", "-h"], False),
        (["python", "-m", "pytest", "--help"], False),
        (["pytest", "--help"], False),
    ],
)
def test_only_the_projects_commands_show_help_without_packages(command: list[str], expected: bool) -> None:
    """Another program has a help of its own, and after "--" an argument is a file's name."""
    assert launcher.asks_for_help(command) == expected
