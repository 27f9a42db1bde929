"""A stand-in for the AWS base image for Python 3.13, for where the image registry cannot be reached.

Real in it are CPython 3.13, Lambda's runtime interface client and its emulator, and the variables that the AWS image
sets. It is not Amazon Linux: the shell and the C library are this machine's. The locked packages' wheels lie in it, the
very ones that Amazon Linux takes, so that what is built on it needs no network, and none of this machine's settings.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from scripts.cli import CommandError
from scripts.environment import locked, requirement
from scripts.image import emulator, wheels
from scripts.image.engine import Engine

TAG = "localhost/lambda-python-stand-in"

RUNTIME_PACKAGES = ("awslambdaric", "simplejson", "snapshot-restore-py")
"""Lambda's runtime client and what it needs, as they are locked for the tests."""

COMMANDS = ("sh", "cat", "chmod", "env", "mkdir", "rm")
"""What the Dockerfile and the entry point need of a shell."""

ASSUMED = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libdl.so.2",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
)
"""Libraries that wheels may take for granted (PEP 600), as far as the locked ones do."""

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
FROM scratch
COPY rootfs /
ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime LANG=en_US.UTF-8 TZ=:/etc/localtime
ENV PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin
ENV LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/var/wheels
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /var/lang/lib
WORKDIR /var/task
ENTRYPOINT ["/lambda-entrypoint.sh"]
"""


def build(engine: Engine, requirements: Sequence[str], folder: Path) -> str:
    """Make the image, with the wheels of these requirements, in an empty folder; return its name.

    Raises:
        CommandError: where a part of it cannot be had.
    """
    root = folder / "rootfs"
    for name in ("etc", "tmp", "usr/local/bin", "var/task", "var/wheels", "opt"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    _add_python(root)
    _add_runtime(root)
    _add_system(root)
    wheels.fetch(requirements, platform.machine(), root / "var" / "wheels")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    engine.build(folder, TAG)
    return TAG


def find_python() -> Path:
    """Return the executable of a CPython 3.13 on this machine. Raises CommandError."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    ask = "import sys; print(*sys.version_info[:2], sys.executable)"
    candidates = [sys.executable, "python3.13", *map(str, sorted(pyenv.glob("versions/3.13*/bin/python3.13")))]
    for candidate in candidates:
        if not shutil.which(candidate):
            continue
        said = subprocess.run([candidate, "-c", ask], capture_output=True, text=True).stdout
        if said.startswith("3 13 "):
            return Path(said.removeprefix("3 13 ").strip()).resolve()
    raise CommandError("there is no CPython 3.13 here to make a stand-in for the AWS base image of: install one")


def _add_python(root: Path) -> None:
    """Copy a CPython, without its packages but with the pip that it brings, to where the AWS image has it."""
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
    packages = locked(["dev-packages"])
    requirements = [requirement(name, packages[name]) for name in RUNTIME_PACKAGES]
    wheels.install(requirements, platform.machine(), root / "var/lang/lib/python3.13/site-packages")
    emulator.fetch(root / "usr/local/bin/aws-lambda-rie")
    entry_point = root / "lambda-entrypoint.sh"
    entry_point.write_text(ENTRY_POINT)
    entry_point.chmod(0o755)


def _add_system(root: Path) -> None:
    """Copy the shell and its commands, and the libraries that these, Python and the wheels need."""
    commands = [Path(found) for name in COMMANDS if (found := shutil.which(name, path="/bin:/usr/bin"))]
    for command in commands:
        _copy(command, root / "bin" / command.name)
    for library in _libraries([*commands, *root.rglob("*.so"), root / "var/lang/bin/python3"]) | _assumed_libraries():
        _copy(library, root / library.relative_to("/"))


def _copy(source: Path, target: Path) -> None:
    """Copy what the source is in the end, with its mode, to a new file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), target)


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return the system's libraries that the binaries need, the loader included."""
    needed: set[Path] = set()
    for binary in binaries:
        said = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
        needed |= {path for path in _paths(said) if path.parts[1] in ("lib", "lib64", "usr")}
    return needed


def _assumed_libraries() -> set[Path]:
    """Return those that wheels assume."""
    found: set[Path] = set()
    known = subprocess.check_output(["/sbin/ldconfig", "-p"], text=True)
    for line in known.splitlines()[1:]:
        name, _, path = line.strip().partition(" => ")
        # "(libc6,x86-64)": one without an architecture is for another than the machine's own.
        if name.partition(" ")[0] in ASSUMED and "," in name:
            found.add(Path(path))
    return found


def _paths(said: str) -> Iterator[Path]:
    """Yield the paths in what ldd said: ``name => /path (address)`` or ``/path (address)``."""
    for line in said.splitlines():
        words = line.split()
        yield from (Path(word) for word in words if word.startswith("/"))
