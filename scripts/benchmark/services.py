"""The web services that are compared: how to start and stop each, its requests and answers, and its memory."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from features import prepare_features
from rides import Ride
from scripts.benchmark import load
from scripts.benchmark.consumers import OURS, OURS_SKLEARN
from scripts.benchmark.inputs import CLOUDPICKLE, SERVED, SKOPS, LoggedModel
from scripts.benchmark.load import HOST, Answers, Traffic
from scripts.cli import CommandError, find_free_port
from scripts.environment import ROOT

COURSE, MLFLOW = "course", "mlflow"
WORKERS = os.cpu_count() or 1
"""The number of our service's workers, which is its default."""
PATIENCE = 120.0
"""Seconds that a service may take to start. mlflow starts slowly, and all services start at the same time."""
SETTINGS = (
    *("DRAIN_SECONDS", "LOG_LEVEL", "METRICS_PORT", "MODEL_BUCKET", "MODEL_SHA256", "PREDICTION_FIELD", "TIME_ZONE"),
)
SERVER_SETTINGS = ("FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS", "PORT", "UVICORN_WORKERS")
"""Variables that are removed from the environment, so that the services run with their own defaults."""


@dataclass(frozen=True)
class Kind:
    """The properties that all services of a kind share."""

    command: tuple[str, ...]
    """The command that starts the service, with ``{port}`` and ``{model}`` to fill in. ``--workers`` follows it."""
    form: str
    """The form of the model. All forms hold the same pipeline."""
    path: str
    encode: Callable[[Sequence[Ride], Sequence[str]], Any]
    """Makes the JSON of a request for some rides, and a model that wants the features of these names."""
    read: Callable[[Any], list[float]]
    """Returns the durations in the JSON of an answer."""
    takes_lists: bool = True
    folder: Path | None = None
    """The folder to start it in; by default an empty one, because gunicorn reads a configuration from its folder."""


def _as_bare_ride(ride: Ride) -> dict[str, Any]:
    bare: dict[str, Any] = msgspec.to_builtins(ride)
    return bare


GUNICORN = (sys.executable, "-m", "gunicorn", f"--bind={HOST}:{{port}}")
_OURS = Kind(
    command=(*GUNICORN, "web_service:app"),
    form=SERVED,
    path="/predict",
    encode=lambda rides, _: [_as_bare_ride(ride) for ride in rides] if len(rides) > 1 else _as_bare_ride(rides[0]),
    read=lambda answer: [one["duration"] for one in (answer if isinstance(answer, list) else [answer])],
    folder=ROOT,
)
KINDS = {
    OURS: _OURS,
    OURS_SKLEARN: replace(_OURS, form=SKOPS),
    # The model is logged as the course logs it, without a signature.
    COURSE: Kind(
        command=(*GUNICORN, "scripts.benchmark.course_service:app"),
        form=CLOUDPICKLE,
        path="/predict",
        encode=lambda rides, _: _as_bare_ride(rides[0]),
        read=lambda answer: [answer["duration"]],
        takes_lists=False,
    ),
    # mlflow's server answers 400 to every request for a model without a signature that takes dictionaries.
    MLFLOW: Kind(
        command=(
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("--model-uri", "{model}", "--host", HOST, "--port", "{port}"),
        ),
        form=SKOPS,
        path="/invocations",
        encode=lambda rides, names: {"dataframe_records": [prepare_features(ride, names) for ride in rides]},
        read=lambda answer: answer["predictions"],
    ),
}


@dataclass(frozen=True)
class Memory:
    """The memory of all processes of a service, in bytes."""

    processes: int
    rss: int
    """The sum of all processes, in which shared memory counts once for each of them."""
    pss: int | None
    """The sum in which shared memory counts once; None if it is not known: only Linux tells it."""


@dataclass
class Service:
    """A service that is running."""

    name: str
    kind: Kind
    model: LoggedModel
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    requests: int = 0
    """The number of requests that it has answered."""

    def send(self, rides: Sequence[Sequence[Ride]], connections: int, seconds: float, requests: int = 10**9) -> Answers:
        """Send requests, each with some of the rides, and return the answers. Raises CommandError if one is wrong."""
        bodies = [json.dumps(self.kind.encode(of_request, self.model.features)) for of_request in rides]
        cpu = self.read_cpu()
        answers = load.send(Traffic(self.port, self.kind.path, bodies, connections, seconds, requests))
        self.requests += answers.requests
        if answers.errors or not answers.requests:
            raise CommandError(f"{self.explain()}: of {answers.requests:,} answers, errors were {answers.errors}")
        return replace(answers, service_cpu=None if cpu is None else (self.read_cpu() or 0.0) - cpu)

    def explain(self) -> str:
        """Return the last line that the service wrote, for an error's message."""
        lines = self.log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "none")
        return f"the service {self.name!r} failed (its last line: {last})"

    def read_memory(self) -> Memory:
        """Add up the memory of the service's processes."""
        kilobytes = self._list_processes()
        shares = [_read_pss(pid) for pid in kilobytes]
        pss = sum(share for share in shares if share) if all(shares) else None
        return Memory(len(kilobytes), sum(kilobytes.values()) * 1024, pss)

    def read_cpu(self) -> float | None:
        """Add up the seconds of CPU time that the service's processes have taken. Only Linux tells it exactly."""
        if sys.platform != "linux":
            return None
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._list_processes()]
        # The user's and the system's time, the 14th and 15th field (man page proc_pid_stat).
        return sum(int(of_process[11]) + int(of_process[12]) for of_process in fields) / os.sysconf("SC_CLK_TCK")

    def _list_processes(self) -> dict[int, int]:
        """Return the kilobytes in memory of each process of the service, by process id."""
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True)
        children, kilobytes = defaultdict(list), {}
        for pid, parent, rss in (map(int, line.split()) for line in listing.stdout.splitlines()):
            children[parent].append(pid)
            kilobytes[pid] = rss
        found = [self.process.pid]
        for pid in found:  # it grows while it is read
            found += children[pid]
        return {pid: kilobytes[pid] for pid in found}


def _read_pss(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@contextlib.contextmanager
def start(name: str, workers: int, model: LoggedModel, folder: Path) -> Iterator[Service]:
    """Run a service with this number of workers for the length of the block; ``wait`` tells when it listens.

    ``name`` is a key of ``KINDS``. ``folder`` is an empty folder for the service's log.
    """
    kind = KINDS[name]
    port = find_free_port()
    location = model.folders[kind.form]
    command = [word.format(port=port, model=location) for word in kind.command]
    environment = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, *SERVER_SETTINGS)}
    environment |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MODEL_LOCATION": str(location),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # mlflow starts uvicorn
        "PYTHONPATH": str(ROOT),
        "RUN_ID": model.run_id,
    }
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            cwd=kind.folder or folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield Service(name, kind, model, process, port, log)
    finally:
        # Kill the whole group, because a killed server leaves its workers running. They have nothing to save.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait(service: Service) -> None:
    """Wait until the service listens. Raises CommandError if it ends or takes too long."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and service.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, service.port)):
            return
        time.sleep(0.05)
    raise CommandError(service.explain())
