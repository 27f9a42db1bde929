"""The checks that the scenarios of all images share: the image's content, its confinement, and its bytecode."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from scripts.environment import ROOT, locked_packages
from scripts.image import container
from scripts.image.container import CPUS, TMP_MB, Container, Engine

CONFINED = {
    "capabilities": 0,
    "gains_privileges": False,
    "writable": ["/tmp"],  # noqa: S108
    "tmp_mb": TMP_MB,
    "open_files": [container.OPEN_FILES] * 2,
    "processes": [container.PROCESSES] * 2,
    "cpus": CPUS,
}
"""The restrictions that a container must find, besides its user and memory."""
LIST_FILES = """
import json, os
paths = [os.path.join(folder, name) for folder, folders, files in os.walk("/") for name in folders + files]
print(json.dumps([path for path in paths if path.split("/")[1] not in ("dev", "proc", "sys")]))
"""
LIST_CONTENT = """
import importlib.metadata, importlib.util, json, os, pathlib
root = pathlib.Path.cwd()
packages = list(importlib.metadata.distributions(path=[str(root)]))
owned = {str(file) for package in packages for file in package.files}
files = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
sources = [file for name, file in files.items() if name.endswith(".py")]
bytecode = {source: pathlib.Path(importlib.util.cache_from_source(source)) for source in sources}
def is_compiled(source):
    # PEP 552: the flags are 1 for a hash of the source that Python never checks.
    header = importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(source.read_bytes())
    return bytecode[source].is_file() and bytecode[source].read_bytes().startswith(header)
print(json.dumps({
    "packages": {package.name: package.version for package in packages},
    "others": sorted(name for name, file in files.items() if name not in owned and file not in bytecode.values()),
    "uncompiled": [str(source) for source in sources if not is_compiled(source)],
    "model": os.environ.get("MODEL_LOCATION", ""),
    "root": str(root),
}))
"""
FIND_RESTRICTIONS = """
import json, os, resource, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def is_writable(folder):
    try:
        open(folder + "/written", "w").close()
    except OSError:
        return False
    return True
folders = ["/", "/dev", "/dev/shm", "/etc", "/opt", "/run", "/tmp", "/var/tmp", os.getcwd(), sys.prefix]
tmp = os.statvfs("/tmp")
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "gains_privileges": status["NoNewPrivs"].strip() == "0",
    "writable": [folder for folder in folders if is_writable(folder)],
    "tmp_mb": tmp.f_blocks * tmp.f_frsize // 2**20,
    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "processes": resource.getrlimit(resource.RLIMIT_NPROC),
}))
"""
LIST_COMPILED = """
import importlib, sys
compiled = []
def note(event, arguments):
    # Only for an import: a package may parse its own source.
    if event == "compile" and sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
        compiled.append(str(arguments[1]))
sys.addaudithook(note)
import json
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps(compiled))
"""
COUNT_KILLS = 'print(dict(line.split() for line in open("/proc/vmstat"))["oom_kill"])'
"""Prints how many processes the kernel has killed for lack of memory, on the whole machine, also in a container."""


class ScenarioError(Exception):
    """The image did not do what it must do; the message says what it did instead."""


def expect(what: str, found: object, expected: object) -> None:
    """Raise ScenarioError if the two are not the same."""
    if found != expected:
        raise ScenarioError(f"{what}: {str(found)[:300]}, not {str(expected)[:300]}")


def copied_files(target: str) -> set[str]:
    """Return the project's files that a target of the Dockerfile copies, besides the packages and the model."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    _, _, stage = text.partition(f" AS {target}-modules\n")
    lines = stage.partition("\nFROM ")[0].splitlines()
    sources = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    found = [path for source in sources for path in ROOT.glob(source)]
    return {str(file.relative_to(ROOT)) for path in found for file in _files(path)}


def _files(path: Path) -> Iterator[Path]:
    """Yield the path if it is a file, or the files below it."""
    yield from [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())


def check_content(engine: Engine, image: str, base: str, target: str, categories: Sequence[str]) -> str:
    """Check that the image adds nothing but the locked packages of these categories and its modules, with bytecode."""
    content = engine.look_into(image, LIST_CONTENT)
    found = {canonicalize_name(name): version for name, version in content["packages"].items()}
    locked = {name: package["version"].removeprefix("==") for name, package in locked_packages(categories).items()}
    modules = copied_files(target)
    expect("packages missing and too many", sorted(found.items() ^ locked.items()), [])
    expect("other files missing and too many", sorted(modules.symmetric_difference(content["others"])), [])
    expect("files without bytecode of their own", content["uncompiled"], [])
    expect("MODEL_LOCATION", content["model"], "")
    new = set(engine.look_into(image, LIST_FILES)) - set(engine.look_into(base, LIST_FILES))
    elsewhere = sorted(path for path in new if path != content["root"] and not path.startswith(f"{content['root']}/"))
    expect("new files elsewhere", elsewhere, ["/opt/model"])
    return f"{len(found)} packages, {len(modules)} files of the project"


def check_confinement(running: Container, user: int, memory_mb: int) -> str:
    """Check that the container has the restrictions that it should run with."""
    found = json.loads(running.python(FIND_RESTRICTIONS)) | running.limits()
    expect("confinement", found, CONFINED | {"uid": user, "memory_mb": memory_mb})
    return f"user {user}, no capabilities, {CPUS} CPU, {memory_mb} MB, writes nowhere but in /tmp, of {TMP_MB} MB"


def check_bytecode(running: Container, *modules: str) -> str:
    """Check that importing the modules in the container compiles no source."""
    expect("compiled at the start", json.loads(running.python(LIST_COMPILED, *modules)), [])
    return "no source is compiled"
