"""Make stand-ins for the base images with Python 3.13, for machines that cannot reach the image registries.

Both have CPython 3.13; the one for the AWS base image has also Lambda's runtime interface client and emulator, and its
variables. They are neither Amazon Linux nor Debian: the shell and the C library are this machine's. They contain the
locked packages' wheels, the same ones that Amazon Linux loads, so that a build on them needs no network and no settings
of this machine.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import downloads

from scripts import cli
from scripts.cli import CommandError
from scripts.environment import locked_packages, requirement, requirements
from scripts.image.container import Engine, find_engine

TAGS = {"lambda": "localhost/lambda-python-stand-in", "python": "localhost/python-stand-in"}
"""The stand-ins' names by the targets of their Dockerfile."""

CATEGORIES = ("packages", "sklearn", "dataframe", "training", "web", "batch")
"""The categories of packages that a build of the Dockerfile may install."""

RUNTIME_PACKAGES = ("awslambdaric", "simplejson", "snapshot-restore-py")
"""Lambda's runtime client and its dependencies, in the versions that are locked for the tests."""

COMMANDS = ("sh", "cat", "chmod", "env", "mkdir", "rm")
"""The shell commands that the Dockerfile and the entry point use."""

ASSUMED = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
)
"""Libraries that wheels may assume (PEP 600), as far as the locked packages' wheels do."""

LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "__pycache__",
    "config-*",
    "*.a",
)

ENTRY_POINT = """\
#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_python3.13
if [ -z "$AWS_LAMBDA_RUNTIME_API" ]; then
  exec /usr/local/bin/aws-lambda-rie /var/lang/bin/python3 -m awslambdaric "$1"
fi
exec /var/lang/bin/python3 -m awslambdaric "$1"
"""

DOCKERFILE = """\
FROM scratch AS python
COPY rootfs /
ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/var/wheels
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /var/lang/lib

FROM python AS lambda
ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime LANG=en_US.UTF-8 TZ=:/etc/localtime
ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin
ENV LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib
WORKDIR /var/task
ENTRYPOINT ["/lambda-entrypoint.sh"]
"""


def main() -> int:
    """Make the images and print their names; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        build(find_engine(), requirements(CATEGORIES), Path(folder))
    print(*TAGS.values())
    return 0


def build(engine: Engine, lines: Sequence[str], folder: Path) -> None:
    """Make the images, with the wheels of these requirements, in an empty folder. Raises CommandError."""
    root = folder / "rootfs"
    for name in ("etc", "tmp", "usr/local/bin", "var/task", "var/wheels", "opt"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    _add_python(root)
    _add_runtime(root)
    _add_system(root)
    downloads.fetch_wheels(lines, platform.machine(), root / "var" / "wheels")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    for target, tag in TAGS.items():
        engine.build(folder, tag, target)


def find_python() -> Path:
    """Return the executable of a CPython 3.13 on this machine. Raises CommandError."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    ask = "import sys; print(*sys.version_info[:2], sys.executable)"
    candidates = [sys.executable, "python3.13", *map(str, sorted(pyenv.glob("versions/3.13*/bin/python3.13")))]
    for candidate in candidates:
        if not shutil.which(candidate):
            continue
        output = subprocess.run([candidate, "-c", ask], capture_output=True, text=True).stdout
        if output.startswith("3 13 "):
            return Path(output.removeprefix("3 13 ").strip()).resolve()
    raise CommandError("a stand-in for the base images needs CPython 3.13, which is not installed here: install it")


def _add_python(root: Path) -> None:
    """Copy a CPython to its place in the AWS image, without installed packages but with its bundled pip."""
    executable = find_python()
    ask = (
        "import json, sysconfig; print(json.dumps([sysconfig.get_path('stdlib'), sysconfig.get_config_var('LIBDIR')]))"
    )
    stdlib, libraries = json.loads(subprocess.check_output([executable, "-c", ask], text=True))
    lang = root / "var" / "lang"
    shutil.copytree(stdlib, lang / "lib" / "python3.13", ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=False)
    _copy(executable, lang / "bin" / "python3.13")
    for name in ("python", "python3"):
        (lang / "bin" / name).symlink_to("python3.13")
    for library in Path(libraries).glob("libpython3.13.so*"):
        _copy(library, lang / "lib" / library.name)
    packages = lang / "lib" / "python3.13" / "site-packages"
    packages.mkdir()
    for wheel in Path(stdlib).glob("ensurepip/_bundled/pip-*.whl"):
        zipfile.ZipFile(wheel).extractall(packages)


def _add_runtime(root: Path) -> None:
    """Add Lambda's runtime client, its emulator and the entry point."""
    packages = locked_packages(["dev-packages"])
    lines = [requirement(name, packages[name]) for name in RUNTIME_PACKAGES]
    downloads.install_wheels(lines, platform.machine(), root / "var/lang/lib/python3.13/site-packages")
    downloads.fetch_emulator(root / "usr/local/bin/aws-lambda-rie")
    entry_point = root / "lambda-entrypoint.sh"
    entry_point.write_text(ENTRY_POINT)
    entry_point.chmod(0o755)


def _add_system(root: Path) -> None:
    """Copy the shell and its commands, and the libraries that they, Python and the wheels need."""
    commands = [Path(found) for name in COMMANDS if (found := shutil.which(name, path="/bin:/usr/bin"))]
    for command in commands:
        _copy(command, root / "bin" / command.name)
    for library in _libraries([*commands, *root.rglob("*.so"), root / "var/lang/bin/python3"]) | _assumed_libraries():
        _copy(library, root / library.relative_to("/"))


def _copy(source: Path, target: Path) -> None:
    """Copy the file that the source is or links to, with its mode, to a new file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), target)


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return the system's libraries that the binaries need, the loader included."""
    needed: set[Path] = set()
    for binary in binaries:
        output = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
        needed |= {path for path in _paths(output) if path.parts[1] in ("lib", "lib64", "usr")}
    return needed


def _assumed_libraries() -> set[Path]:
    """Return this machine's files of the libraries that wheels assume."""
    found: set[Path] = set()
    known = subprocess.check_output(["/sbin/ldconfig", "-p"], text=True)
    for line in known.splitlines()[1:]:
        name, _, path = line.strip().partition(" => ")
        # "(libc6,x86-64)": an entry without an architecture is for another one than this machine's.
        if name.partition(" ")[0] in ASSUMED and "," in name:
            found.add(Path(path))
    return found


def _paths(output: str) -> Iterator[Path]:
    """Yield the paths in the output of ldd: ``name => /path (address)`` or ``/path (address)``."""
    for line in output.splitlines():
        words = line.split()
        yield from (Path(word) for word in words if word.startswith("/"))


if __name__ == "__main__":
    sys.exit(cli.run(main, explained=(OSError,)))
