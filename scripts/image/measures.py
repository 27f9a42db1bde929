"""The figures of the images: size, start, memory and speed."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple

from scripts.cli import CommandError
from scripts.image.batch_scenarios import JOB, BatchStage, prepare_batch
from scripts.image.container import Engine, FunctionContainer
from scripts.image.models import OTHER, PIPELINE, SAMPLE
from scripts.image.scenarios import COMPLETE, Stage, good_rides
from scripts.image.trip_files import make_trips
from scripts.image.web_scenarios import WebStage

LOADERS = {SAMPLE: "served form", PIPELINE: "scikit-learn", OTHER: "mlflow"}
"""How a model is evaluated, by its name."""
COLD_STARTS = 3
WARM_BATCHES = 20
WORKERS = 2
BATCH, LARGE_BATCH = 500, 8_000
"""Rides in a batch of the local stack, and in a batch of almost 6 MB, Lambda's limit."""
LARGE_MONTH = (10_000, 100)
"""The number of different rows of a large month, and how often it has each row."""
TIME_JOB = """
import time
began = time.perf_counter()
import batch_job, resource
code = batch_job.main()
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


class Choice(NamedTuple):
    """A row of a table: the packages of the function's image, how a model is evaluated with them, and the costs."""

    categories: str
    evaluated_by: str
    adds_to_the_base: str
    cold_start: str
    peak_memory: str


def measure_sizes(engine: Engine, base: str, images: Mapping[str, str]) -> dict[str, str]:
    """Return how much each image adds to the base image, by the image's description."""
    base_size = engine.size(base)
    return {f"{name} adds to the base": _megabytes(engine.size(image) - base_size) for name, image in images.items()}


def measure_choice(stage: Stage, model: str) -> Choice:
    """Return the costs of the packages of the stage's image with a model that is read from S3."""
    size = stage.engine.size(stage.image) - stage.engine.size(stage.base)
    seconds, peak = _measure_starts(stage, stage.image, model)
    return Choice(" ".join(stage.categories), LOADERS[model], _megabytes(size), f"{seconds:.2f} s", _megabytes(peak))


def measure_baked(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return the cold start of each image with the sample model in it, by the image's description."""
    seconds = {what: _measure_starts(stage, stage.baked_image, SAMPLE)[0] for what, stage in stages.items()}
    return {f"cold start and one ride, model baked in{what}": f"{value:.2f} s" for what, value in seconds.items()}


def measure_performance(stage: Stage) -> dict[str, str]:
    """Return the function's speed and memory with larger batches, by description."""
    measured = {}
    with stage.function() as function:
        _time_batch(function, 1)
        batches = [_time_batch(function, BATCH) for _ in range(WARM_BATCHES)]
        measured[f"a warm batch of {BATCH} rides"] = f"{statistics.median(batches) * 1000:.0f} ms"
        measured[f"peak memory after {WARM_BATCHES} of them"] = _megabytes(function.peak_memory())
        measured[f"a batch of {LARGE_BATCH:,} rides"] = f"{_time_batch(function, LARGE_BATCH):.2f} s"
        measured["peak memory after that"] = _megabytes(function.peak_memory())
    return measured


def measure_web(stage: WebStage) -> dict[str, str]:
    """Return the web service's start and memory, by description."""
    measured = {}
    for place, image in (("out of S3", stage.image), ("baked in", stage.baked_image)):
        seconds = statistics.median(_time_web_start(stage, image) for _ in range(COLD_STARTS))
        measured[f"web service healthy after its start, model {place}"] = f"{seconds:.2f} s"
    with stage.service(WEB_CONCURRENCY=str(WORKERS)) as service:
        service.wait_until_ready()
        measured[f"memory of the web service with {WORKERS} workers"] = _megabytes(service.memory())
    return measured


def measure_batch(stage: BatchStage) -> dict[str, str]:
    """Return the batch job's speed and memory, by description."""
    large = prepare_batch(stage.function_stage, stage.image, stage.baked_image, stage.base, make_trips(*LARGE_MONTH))
    month = f"{math.prod(LARGE_MONTH):,} rows, S3 to S3"
    seconds, peak = _time_job(large)
    seconds_again, _ = _time_job(large)
    return {
        f"batch job of {month}": f"{seconds:.1f} s",
        "peak memory of it": _megabytes(peak),
        "the same again, which is done": f"{seconds_again:.1f} s",
    }


def _time_job(stage: BatchStage) -> tuple[float, int]:
    """Return the seconds that the job takes, its start included, and the bytes of its largest resident memory."""
    arguments = (*JOB[3:], f"--input={stage.source}", f"--output={stage.output()}")
    with stage.run("python3", "-c", TIME_JOB, *arguments) as job:
        code, (stdout, stderr) = job.wait_until_ended(), job.output()
    if code:
        raise CommandError(f"the measured batch job failed: {stderr[-300:]}")
    seconds, kilobytes = stdout.split()[-2:]
    return float(seconds), int(kilobytes) * 1024


def _time_web_start(stage: WebStage, image: str) -> float:
    with stage.service(image=image) as service:
        began = time.perf_counter()
        service.wait_until_ready()
        return time.perf_counter() - began


def _measure_starts(stage: Stage, image: str, model: str) -> tuple[float, int]:
    """Return the median seconds of a cold start with one ride, and the bytes of the largest resident memory in it."""
    seconds, peaks = [], []
    for _ in range(COLD_STARTS):
        with stage.function(image=image, model=model) as function:
            seconds.append(_time_batch(function, 1))
            peaks.append(function.peak_memory())
    return statistics.median(seconds), max(peaks)


def _time_batch(function: FunctionContainer, rides: int) -> float:
    """Return how many seconds the caller waits for a batch of ``rides`` rides."""
    event = good_rides(rides)
    began = time.perf_counter()
    answer = function.invoke(event)
    seconds = time.perf_counter() - began
    if answer != COMPLETE:
        raise CommandError(f"the response to a measured batch of {rides} rides was {str(answer)[:300]}")
    return seconds


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
