"""The settings with which gunicorn serves ``web_service:app``. gunicorn reads this file from its working folder."""

import gc
import math
import os
import signal
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))


def end(number: int, _: FrameType | None) -> None:
    """End the process at once, without a traceback."""
    os._exit(128 + number)


# Until gunicorn handles them itself, after the model is loaded. A container's first process has no defaults for them.
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
# Each worker has one core. Set before numpy is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def count_cpus() -> int:
    """Return the number of CPUs that this process may use: the container's limit, if it has one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, round(int(quota) / int(period))))


bind = f"0.0.0.0:{os.environ.get('PORT') or 9696}"
# The metrics have 128 slots, and at SIGHUP each worker runs beside its successor for a while.
workers = int(os.environ.get("WEB_CONCURRENCY") or min(64, count_cpus()))
if not 1 <= workers <= 64:
    sys.exit(f"gunicorn.conf.py: WEB_CONCURRENCY is a number of workers from 1 to 64, not {workers}")
worker_class = "web.worker.Worker"
# The model is loaded once, and the workers, which are forked from that process, share its memory.
preload_app = True
# Longer than load balancers keep an idle connection, usually 60 seconds: if the service closed it first, a request that
# the load balancer sends at this moment would be lost.
keepalive = 75
# After SIGTERM and DRAIN_SECONDS, for the requests in flight.
graceful_timeout = 60
# Nothing uses gunicorn's control socket, for which gunicorn would write into the home folder.
control_socket_disable = True


def on_starting(server) -> None:  # type: ignore[no-untyped-def]
    """If METRICS_PORT is set, listen on this port too, at the same address."""
    if port := os.environ.get("METRICS_PORT", "").strip():
        first = server.cfg.address[0]  # a text if it is a Unix socket
        host = first[0] if isinstance(first, tuple) else "127.0.0.1"
        server.cfg.set("bind", [*server.cfg.settings["bind"].value, f"{host}:{port}"])


def when_ready(server) -> None:  # type: ignore[no-untyped-def]
    """Let SIGTERM begin the draining, and leave what is loaded to all workers."""
    stop, health = signal.getsignal(signal.SIGTERM), server.app.wsgi().extensions["health"]
    server.cfg.set("graceful_timeout", server.cfg.graceful_timeout + math.ceil(health.drain_seconds))
    # At SIGHUP, gunicorn replaces the workers. It would also read this file again, and lose what is set here.
    server.app.reload = lambda: None

    def drain(number: int, frame: FrameType | None) -> None:
        # After SIGUSR2 there are two masters, and the other one goes on listening on the same socket.
        if not server.reexec_pid and not server.master_pid:
            health.drain()
        if callable(stop):
            stop(number, frame)

    signal.signal(signal.SIGTERM, drain)
    # From now on the garbage collector skips all objects that exist: its marks would copy the shared memory pages.
    gc.collect()
    gc.freeze()
