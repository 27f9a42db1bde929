"""The comparison of the web services: they get the same rides from the same load generator, in turns."""

import contextlib
import json
import math
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from features import prepare_features
from rides import Ride
from scripts.benchmark import services
from scripts.benchmark.consumers import OURS, OURS_SKLEARN
from scripts.benchmark.inputs import CLOUDPICKLE, LoggedModel, Plan
from scripts.benchmark.load import Answers
from scripts.benchmark.services import COURSE, MLFLOW, WORKERS, Kind, Service
from scripts.benchmark.web_results import Load, LoadRow, MemoryRow, make_memory_row, make_rows
from scripts.cli import CommandError

LIST_RIDES = 100
"""The number of rides in a list."""
LIST_CONNECTIONS = 16
"""The number of connections over which lists are sent."""
BODIES = {1: 200, LIST_RIDES: 20}
"""The number of different requests, by the number of rides in a request."""
WARM_UP_REQUESTS = 100


def list_services(*, equal_workers: bool) -> dict[str, tuple[str, int]]:
    """Return the kind and the number of workers of each service, by its name.

    The other services have one worker, which is their default. If ``equal_workers``, they run with our number too.
    """
    found = {OURS: (OURS, WORKERS), OURS_SKLEARN: (OURS_SKLEARN, WORKERS), COURSE: (COURSE, 1), MLFLOW: (MLFLOW, 1)}
    if equal_workers and WORKERS > 1:
        found |= {f"{kind} x {WORKERS}": (kind, WORKERS) for kind in (COURSE, MLFLOW)}
    return found


@contextlib.contextmanager
def start_services(model: LoggedModel, folder: Path, *, equal_workers: bool) -> Iterator[dict[str, Service]]:
    """Run our services and the other services for the length of the block, and yield them by their names."""
    with contextlib.ExitStack() as stack:
        found = {}
        for place, (name, (kind, workers)) in enumerate(list_services(equal_workers=equal_workers).items()):
            own = folder / f"{model.run_id}-{place}"
            own.mkdir()
            found[name] = stack.enter_context(services.start(kind, workers, model, own))
        for service in found.values():
            services.wait(service)
        yield found


def measure(
    model_name: str, model: LoggedModel, rides: Sequence[Ride], plan: Plan, folder: Path, advance: Callable[[], None]
) -> tuple[list[LoadRow], list[MemoryRow]]:
    """Measure all services with one model, and return a row for each load and service.

    ``advance`` is called after each of the turns that ``count_turns`` counts. Raises CommandError if a service fails
    or an answer is wrong.
    """
    expected = predict_with_scikit_learn(model, rides)
    with start_services(model, folder, equal_workers=plan.equal_workers) as running:

        def send(service: Service, load: Load, seconds: float, requests: int = 10**9) -> Answers:
            batches = make_batches(rides, load.rides if service.kind.takes_lists else 1, BODIES[load.rides])
            answers = service.send(batches, load.connections, seconds, requests)
            check(service.name, service.kind, batches, answers, expected)
            return answers

        one = Load(1, LIST_CONNECTIONS)
        for service in running.values():
            send(service, one, plan.budget, WARM_UP_REQUESTS)
        before = {name: service.read_memory() for name, service in running.items()}
        found: defaultdict[tuple[Load, str], list[Answers]] = defaultdict(list)
        for _ in range(plan.rounds):
            for load in list_loads(plan):
                for name, service in running.items():
                    found[load, name].append(send(service, load, plan.load_seconds))
                    advance()
        for service in running.values():
            send(service, one, plan.budget, max(plan.requests - service.requests, 1))
            advance()
        memory = [
            make_memory_row(model_name, name, service.requests, before[name], service.read_memory())
            for name, service in running.items()
        ]
        takes_lists = {name: service.kind.takes_lists for name, service in running.items()}
    return make_rows(model_name, found, takes_lists), memory


def list_loads(plan: Plan) -> list[Load]:
    """Return the loads: one ride a request over more and more connections, and lists."""
    return [*(Load(1, connections) for connections in plan.connections), Load(LIST_RIDES, LIST_CONNECTIONS)]


def count_turns(plan: Plan) -> int:
    """Return the number of turns with one model: each service has a turn for each load and round, and a last turn."""
    return (len(list_loads(plan)) * plan.rounds + 1) * len(list_services(equal_workers=plan.equal_workers))


def make_batches(rides: Sequence[Ride], size: int, most: int) -> list[Sequence[Ride]]:
    """Return the rides of at most this many requests, all of the same size. Raises CommandError for too few rides."""
    if size > len(rides):
        raise CommandError(
            f"a list needs {size:,} different rides, and there are only {len(rides):,}: give --data larger files"
        )
    return [rides[start : start + size] for start in range(0, len(rides) - size + 1, size)][:most]


def predict_with_scikit_learn(model: LoggedModel, rides: Sequence[Ride]) -> dict[Ride, float]:
    """Return the durations that the services must give."""
    pipeline = pickle.loads((model.folders[CLOUDPICKLE] / "model.pkl").read_bytes())  # noqa: S301 - logged just now
    features = [prepare_features(ride, model.features) for ride in rides]
    values = pipeline.predict(pd.DataFrame(features) if hasattr(pipeline, "feature_names_in_") else features)
    return dict(zip(rides, values.tolist(), strict=True))


def check(
    service: str, kind: Kind, batches: Sequence[Sequence[Ride]], answers: Answers, expected: Mapping[Ride, float]
) -> None:
    """Raise CommandError if a duration in an answer is missing or wrong."""
    for rides, body in zip(batches, answers.bodies, strict=True):
        if body is not None:
            values, durations = kind.read(json.loads(body)), [expected[ride] for ride in rides]
            if len(values) != len(durations) or not all(map(math.isclose, values, durations)):
                raise CommandError(
                    f"the service {service!r} gave {body[:200]}, and the durations should be {durations[:3]}"
                )
