"""The settings with which gunicorn serves ``web_service:app``; it reads them from its working folder."""

import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))
# Until gunicorn handles Ctrl-C itself, after the model is loaded, Ctrl-C ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# Each worker has one core. Set before numpy is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def count_cpus() -> int:
    """Return the CPUs that this process may use: a container's limit counts, if it has one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, round(int(quota) / int(period))))


bind = f"0.0.0.0:{os.environ.get('PORT') or 9696}"
workers = int(os.environ.get("WEB_CONCURRENCY") or count_cpus())
worker_class = "web.worker.Worker"
# The model is loaded once, and the workers, which are forked from that process, share its memory.
preload_app = True
# Longer than load balancers keep an idle connection, usually 60 seconds: they must be the ones to close it.
keepalive = 75
# After SIGTERM: DRAIN_SECONDS, and then the requests in flight.
graceful_timeout = 60
control_socket_disable = True


def on_starting(server) -> None:  # type: ignore[no-untyped-def]
    """Listen on the port of the metrics too, if they have their own."""
    if os.environ.get("METRICS_PORT", "").strip():
        server.cfg.set("bind", [*server.cfg.settings["bind"].value, f"0.0.0.0:{os.environ['METRICS_PORT'].strip()}"])


def when_ready(server) -> None:  # type: ignore[no-untyped-def]
    """Let SIGTERM begin the draining, and leave what is loaded to all workers."""
    stop = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: FrameType | None) -> None:
        server.app.wsgi().extensions["health"].drain()
        if callable(stop):
            stop(number, frame)

    signal.signal(signal.SIGTERM, drain)
    # GC never looks at what is loaded: writing its marks would copy the memory that the workers share.
    gc.collect()
    gc.freeze()
