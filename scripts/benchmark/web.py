"""The comparison of the web services: they get the same rides from the same load generator, in turns."""

import contextlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from rides import Ride
from scripts.benchmark import services
from scripts.benchmark.inputs import CLOUDPICKLE, LoggedModel, Plan
from scripts.benchmark.load import Answers
from scripts.benchmark.services import COURSE, KINDS, MLFLOW, OURS_WEB, Memory, Service
from scripts.cli import CommandError

LIST_RIDES = 100
"""The number of rides in a list."""
LIST_CONNECTIONS = 16
"""The number of connections that lists are sent over."""
BODIES = {1: 200, LIST_RIDES: 20}
"""The number of different requests, by their number of rides."""
WARM_UP_REQUESTS = 100


@dataclass(frozen=True)
class Load:
    """One kind of load: the rides in a request, and the connections that send requests at the same time."""

    rides: int
    connections: int


@dataclass(frozen=True)
class LoadRow:
    """What one service did under one load, as medians of the rounds."""

    model: str
    load: Load
    service: str
    requests_per_second: float
    rides_per_second: float
    p50: float
    """Milliseconds from a request to its answer."""
    p99: float
    ours_to_this: float
    """How many times as many rides our service predicts in the same time."""
    generator_share: float
    """The share of one core that the load generator took."""


@dataclass(frozen=True)
class MemoryRow:
    """The memory of one service in megabytes, before and after requests."""

    model: str
    service: str
    processes: int
    requests: int
    rss_before: float
    rss_after: float
    pss_before: float | None
    pss_after: float | None


@contextlib.contextmanager
def start_services(model: LoggedModel, folder: Path) -> Iterator[dict[str, Service]]:
    """Run our service and the others for the length of the block, each also with as many workers as ours."""
    with contextlib.ExitStack() as stack:

        def start(name: str, kind: str, workers: int | None = None) -> Service:
            own = folder / f"service-{len(list(folder.glob('service-*')))}"
            own.mkdir()
            found[name] = stack.enter_context(services.start(KINDS[kind], model, own, workers))
            return found[name]

        found: dict[str, Service] = {}
        services.wait(start(OURS_WEB, OURS_WEB))
        # All but the master.
        workers = found[OURS_WEB].read_memory().processes - 1
        for kind in (COURSE, MLFLOW):
            start(kind, kind)
            if workers > 1:
                start(f"{kind}, {workers} workers", kind, workers)
        for service in found.values():
            services.wait(service)
        yield found


def measure(
    name: str, model: LoggedModel, rides: Sequence[Ride], plan: Plan, folder: Path, advance: Callable[[], None]
) -> tuple[list[LoadRow], list[MemoryRow]]:
    """Measure all services with one model, and return a row for each load and service.

    ``advance`` is called after each of the turns that ``count_turns`` counts. Raises CommandError if a service fails
    or an answer is wrong.
    """
    expected = predict_with_scikit_learn(model, rides)
    with start_services(model, folder) as running:

        def send(service: Service, load: Load, seconds: float, requests: int = 10**9) -> Answers:
            batches = make_batches(rides, load.rides if service.kind.takes_lists else 1, BODIES[load.rides])
            answers = service.send(batches, load.connections, seconds, requests)
            check(service, batches, answers, expected)
            return answers

        one = Load(1, LIST_CONNECTIONS)
        for service in running.values():
            send(service, one, plan.budget, WARM_UP_REQUESTS)
        before = {service: running[service].read_memory() for service in running}
        found: dict[tuple[Load, str], list[Answers]] = {}
        for _ in range(plan.rounds):
            for load in list_loads(plan):
                for service in running:
                    answers = send(running[service], load, plan.load_seconds)
                    found.setdefault((load, service), []).append(answers)
                    advance()
        for service in running.values():
            send(service, one, plan.budget, max(plan.requests - service.requests, 1))
            advance()
        memory = [_make_memory_row(name, key, running[key], before[key]) for key in running]
        sizes = {key: service.kind.takes_lists for key, service in running.items()}
    return make_rows(name, found, sizes), memory


def list_loads(plan: Plan) -> list[Load]:
    """Return the loads: one ride a request over more and more connections, and lists."""
    return [*(Load(1, connections) for connections in plan.connections), Load(LIST_RIDES, LIST_CONNECTIONS)]


def count_turns(plan: Plan) -> int:
    """Return the number of turns with one model: each service has one for each load and round, and a last one."""
    return (len(list_loads(plan)) * plan.rounds + 1) * (2 * len(KINDS) - 1)


def make_batches(rides: Sequence[Ride], size: int, requests: int) -> list[Sequence[Ride]]:
    """Return the rides of each request."""
    return [rides[start : start + size] for start in range(0, min(size * requests, len(rides)), size)]


def predict_with_scikit_learn(model: LoggedModel, rides: Sequence[Ride]) -> dict[Ride, float]:
    """Return the durations that the services must give."""
    import pickle

    from model import prepare_features

    pipeline = pickle.loads((model.folders[CLOUDPICKLE] / "model.pkl").read_bytes())  # noqa: S301 - logged just now
    values = pipeline.predict([prepare_features(ride) for ride in rides])
    return dict(zip(rides, values.tolist(), strict=True))


def check(
    service: Service, batches: Sequence[Sequence[Ride]], answers: Answers, expected: Mapping[Ride, float]
) -> None:
    """Raise CommandError if an answer has not the duration of each of its rides."""
    for rides, body in zip(batches, answers.bodies, strict=True):
        values = service.kind.read(json.loads(body)) if body else [expected[ride] for ride in rides]
        if not all(map(math.isclose, values, [expected[ride] for ride in rides])) or len(values) != len(rides):
            raise CommandError(f"{service.explain()}; it gave a wrong duration: {body}")


def make_rows(
    model: str, found: Mapping[tuple[Load, str], Sequence[Answers]], takes_lists: Mapping[str, bool]
) -> list[LoadRow]:
    """Return a row for each load and service. A service that takes no lists has one ride in each request."""
    rates = {
        key: statistics.median(answers.requests / answers.seconds for answers in of_key) for key, of_key in found.items()
    }
    sizes = {(load, service): load.rides if takes_lists[service] else 1 for load, service in found}
    return [
        LoadRow(
            model,
            load,
            service,
            requests_per_second=rates[load, service],
            rides_per_second=rates[load, service] * sizes[load, service],
            p50=statistics.median(answers.p50 for answers in of_key) * 1000,
            p99=statistics.median(answers.p99 for answers in of_key) * 1000,
            ours_to_this=rates[load, OURS_WEB] * load.rides / (rates[load, service] * sizes[load, service]),
            generator_share=statistics.median(answers.cpu / answers.seconds for answers in of_key),
        )
        for (load, service), of_key in found.items()
    ]


def _make_memory_row(model: str, name: str, service: Service, before: Memory) -> MemoryRow:
    after = service.read_memory()
    sizes = (before.rss, after.rss, before.pss, after.pss)
    return MemoryRow(model, name, after.processes, service.requests, *(size and size / 1e6 for size in sizes))  # type: ignore[arg-type]


def load_table(rows: Sequence[LoadRow], model: str) -> Table:
    """Return the table of one model's loads."""
    share = max(row.generator_share for row in rows)
    table = Table(title=f"Web services, {model}", title_justify="left", caption_justify="left")
    table.caption = (
        "The course's service takes no lists and gets one ride a request. Its times are those of one request.\n"
        f"The load generator took at most {share:.0%} of one core."
    )
    for name in ("rides", "conns", "service", "requests/s", "rides/s", "p50 ms", "p99 ms", "ours/\nthis"):
        table.add_column(name, justify="left" if name == "service" else "right")
    for row in rows:
        if row.model == model:
            figures = (row.requests_per_second, row.rides_per_second, row.p50, row.p99, row.ours_to_this)
            table.add_row(str(row.load.rides), str(row.load.connections), row.service, *map(_format, figures))
    return table


def memory_table(rows: Sequence[MemoryRow], model: str) -> Table:
    """Return the table of the services' memory with one model."""
    table = Table(title=f"Memory in MB, {model}", title_justify="left", caption_justify="left")
    table.caption = "RSS counts memory that processes share once for each of them, PSS once. PSS is Linux's."
    for name in ("service", "processes", "requests", "RSS before", "after", "PSS before", "after"):
        table.add_column(name, justify="left" if name == "service" else "right")
    for row in rows:
        if row.model == model:
            sizes = (row.rss_before, row.rss_after, row.pss_before, row.pss_after)
            figures = ["–" if size is None else f"{size:,.0f}" for size in sizes]
            table.add_row(row.service, str(row.processes), f"{row.requests:,}", *figures)
    return table


def _format(figure: float) -> str:
    return f"{figure:,.{2 if figure < 10 else 1 if figure < 100 else 0}f}"
