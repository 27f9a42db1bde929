"""The scenarios of the web service's image: each is a function that checks one behaviour and returns a summary."""

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import msgspec

from rides import Ride, RideEvent
from scripts.image import checks
from scripts.image.checks import COUNT_KILLS, ScenarioError, expect
from scripts.image.models import GREEDY, SAMPLE, pinned
from scripts.image.scenarios import COMPLETE, Stage
from scripts.image.web_container import MEMORY_MB, PATIENCE_SECONDS, WebContainer, ask, run_web
from scripts.localaws.moto import DUMMY_CREDENTIALS, REGION
from scripts.sources.events import kinesis_event
from scripts.sources.records import encode_ride
from scripts.sources.synthetic import generate_events

USER = 10001
RIDE = Ride(100, 200, 3.5)
"""The ride of the README's curl."""
LISTS, LIST, FIRST_LISTS = 1_000, 1_000, 100
MAX_GROWTH = 1.1
"""The factor by which a worker's memory may grow from the first lists to the last."""
CLIENTS = 8


@dataclass(frozen=True)
class WebStage:
    """The web service's image, and the stage of the function's image beside it."""

    function_stage: Stage
    image: str
    baked_image: str
    """The same image with the sample model in it."""
    base: str
    """The base image of both."""

    def service(
        self, *, image: str = "", model: str = SAMPLE, **variables: str
    ) -> contextlib.AbstractContextManager[WebContainer]:
        """Run the service in a container of its own, with a model from S3 unless the image has one."""
        stage = self.function_stage
        from_s3 = {
            **DUMMY_CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": stage.endpoint,
            "MODEL_LOCATION": f"{stage.models}/{model}",
            **pinned(model),
        }
        defaults = {} if image == self.baked_image else from_s3
        return run_web(stage.engine, image or self.image, {**defaults, **variables})


def holds_the_locked_packages_and_the_modules(stage: WebStage) -> str:
    """The image adds nothing else to its base: packages in locked versions, with bytecode of exactly their source."""
    engine, categories = stage.function_stage.engine, [*stage.function_stage.categories, "web"]
    return checks.check_content(engine, stage.image, stage.base, "web", categories)


def is_confined(stage: WebStage) -> str:
    """The service runs under the same restrictions as the function; otherwise other scenarios would prove little."""
    with stage.service() as service:
        service.wait_until_ready()
        return checks.check_confinement(service, USER, MEMORY_MB)


def starts_from_bytecode_alone(stage: WebStage) -> str:
    """A start compiles no module, because the files are read-only and each start would compile it again."""
    with stage.service() as service:
        service.wait_until_ready()
        return checks.check_bytecode(service, "web_service", "web.worker")


def answers_as_the_function_does(stage: WebStage) -> str:
    """The durations of the ride in the README's curl, and of 500 others, are the function's to the last bit."""
    events = [RideEvent(RIDE, "readme"), *generate_events(500, seed=0)]
    with stage.service() as service:
        service.wait_until_ready()
        answers = _predict(service, [msgspec.to_builtins(event) for event in events])
    with stage.function_stage.function() as function:
        expect("response", function.invoke(kinesis_event(map(encode_ride, events))), COMPLETE)
    found = {answer["ride_id"]: (answer["duration"], answer["model_version"]) for answer in answers}
    expected = {one.ride_id: (one.value, one.version) for one in stage.function_stage.predictions()}
    expect("durations", found, expected)
    return f"{len(found)} rides, the README's takes {found['readme'][0]:.2f} minutes"


def needs_no_s3_with_a_model_in_it(stage: WebStage) -> str:
    """The service loads a baked model without any S3."""
    with stage.service(image=stage.baked_image, AWS_ENDPOINT_URL_S3="http://127.0.0.1:1") as service:
        service.wait_until_ready()
        _predict(service, msgspec.to_builtins(RIDE))
    return "a ride predicted"


def has_a_health_check(stage: WebStage) -> str:
    """The image's HEALTHCHECK finds the service on the port that PORT names, and fails if there is no service."""
    with stage.service() as service:
        kind, *command = json.loads(service.look_up("{{json .Config.Healthcheck.Test}}"))
        expect("kind of the check", kind, "CMD")
        service.wait_until_ready()
        can = service.engine.can
        expect("whether the service is healthy", can("exec", service.name, *command), True)
        expect(
            "whether a port without a service is healthy", can("exec", "--env=PORT=1", service.name, *command), False
        )
    return "healthy on its port, unhealthy on another one"


def serves_its_pages(stage: WebStage) -> str:
    """The image has the pages' own files, and those of the package that shows the document."""
    with stage.service() as service:
        service.wait_until_ready()
        pages = [service.get(path) for path in ("/", "/docs")]
        links = sorted({link for _, page in pages for link in re.findall('(?:href|src)="(/[^"]*)"', page)})
        statuses = {link: service.get(link)[0] for link in links}
    expect("statuses of the pages", [status for status, _ in pages], [200, 200])
    expect("statuses of their files", statuses, dict.fromkeys(links, 200))
    return f"{len(pages)} pages with {len(links)} files and links"


def refuses_to_start_without_a_model(stage: WebStage) -> str:
    """The container ends, and its log has one line, which names the place where a model should be."""
    with stage.service(model="nothing") as service:
        code, lines = service.wait_until_ended(), "".join(service.output()).splitlines()
    words = f"there is no MLmodel in {stage.function_stage.models}/nothing"
    if code == 0 or len(lines) != 1 or words not in lines[0]:
        raise ScenarioError(f"expected a failure with one line that says “{words}”, not {code} with {lines}"[:600])
    return f"exit code {code}: … {words}"


def keeps_its_memory(stage: WebStage) -> str:
    """Memory does not grow with the number of rides that the service has answered."""
    rides = [msgspec.to_builtins(event) for event in generate_events(LIST, seed=1)]
    peaks = []
    with stage.service() as service:
        service.wait_until_ready()
        for number in range(1, LISTS + 1):
            _predict(service, rides)
            if number in (FIRST_LISTS, LISTS):
                peaks.append(service.peak_memory())
    first, last = peaks
    summary = f"{first / 1e6:.0f} MB in a worker after {FIRST_LISTS} lists of {LIST:,} rides, {last / 1e6:.0f} MB after"
    summary += f" {LISTS:,}"
    if last > first * MAX_GROWTH:
        raise ScenarioError(summary)
    return summary


def stops_gracefully(stage: WebStage) -> str:
    """At SIGTERM, while clients go on, the service answers every request that it takes, and ends with the code 0."""
    with stage.service() as service, ThreadPoolExecutor(CLIENTS) as threads:
        service.wait_until_ready()
        enough = threading.Semaphore(0)
        clients = [threads.submit(_keep_asking, service, enough) for _ in range(CLIENTS)]
        for _ in range(100 * CLIENTS):
            enough.acquire(timeout=PATIENCE_SECONDS)
        began = time.monotonic()
        service.engine.call("stop", "-t", str(PATIENCE_SECONDS), service.name)
        seconds = time.monotonic() - began
        outcomes = sum((client.result() for client in clients), Counter())
        expect("exit code", service.wait_until_ended(), 0)
    expect("outcomes besides an answer", outcomes - Counter({"200": outcomes["200"]}), Counter())
    return f"{outcomes['200']:,} requests of {CLIENTS} clients answered, none lost; ended {seconds:.1f} s after SIGTERM"


def outlives_a_worker_that_runs_out_of_memory(stage: WebStage) -> str:
    """The kernel kills the worker that predicts a heavy list, and the service goes on with another one."""
    with stage.service(model=GREEDY) as service:
        service.wait_until_ready()
        kills = int(service.python(COUNT_KILLS))
        with contextlib.suppress(OSError, HTTPException):
            status, _ = service.ask("/predict", [msgspec.to_builtins(RIDE)] * LIST)
            raise ScenarioError(f"a list that needs gigabytes is answered {status}")
        expect("whether the kernel killed it for lack of memory", int(service.python(COUNT_KILLS)) > kills, True)
        _predict(service, msgspec.to_builtins(RIDE))
        expect("whether the container still runs", service.is_running, True)
    return f"killed at {MEMORY_MB} MB; the next request is answered"


WEB_SCENARIOS: Sequence[Callable[[WebStage], str]] = (
    holds_the_locked_packages_and_the_modules,
    is_confined,
    starts_from_bytecode_alone,
    answers_as_the_function_does,
    needs_no_s3_with_a_model_in_it,
    has_a_health_check,
    serves_its_pages,
    refuses_to_start_without_a_model,
    keeps_its_memory,
    stops_gracefully,
    outlives_a_worker_that_runs_out_of_memory,
)


def _predict(service: WebContainer, body: object) -> Any:
    """Return the answer to a ride or a list of rides. Raises ScenarioError if its status is not 200."""
    status, answer = service.ask("/predict", body)
    expect("status", status, 200)
    return answer


def _keep_asking(service: WebContainer, enough: threading.Semaphore) -> "Counter[str]":
    """Send requests, each after the answer to the one before, until the service takes no more; count the outcomes."""
    outcomes: Counter[str] = Counter()
    with contextlib.closing(service.connect()) as connection:
        while True:
            try:
                status, _ = ask(connection, "/predict", msgspec.to_builtins(RIDE))
                outcomes[str(status)] += 1
            except ConnectionRefusedError:
                return outcomes
            except (OSError, HTTPException) as error:
                outcomes[type(error).__name__] += 1
                connection.close()
            enough.release()
