"""What the function's image must do against the local AWS: each scenario is a function that returns a summary."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from model import Model
from rides import Prediction
from scripts.aws.predictions import read_prediction
from scripts.aws.shards import ShardReader
from scripts.image import checks, container
from scripts.image.checks import COUNT_KILLS, ScenarioError, expect
from scripts.image.container import MEMORY_MB, TIMEOUT_SECONDS, USER, Engine, FunctionContainer
from scripts.image.models import GREEDY, SAMPLE, SLOW, pinned
from scripts.localaws import chaos
from scripts.localaws.faults import Delayed
from scripts.localaws.moto import DUMMY_CREDENTIALS, REGION
from scripts.localaws.setup import FAILURES_BUCKET
from scripts.sources.bad import with_bad_rides
from scripts.sources.events import SHARD, kinesis_event
from scripts.sources.records import aggregate
from scripts.sources.synthetic import generate_rides
from streaming.records import RejectionLine, decode_event

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

COMPLETE: dict[str, Any] = {"batchItemFailures": []}


@dataclass(frozen=True)
class Stage:
    """An image and the local AWS, with an output stream and a place for rejections that only one scenario uses."""

    engine: Engine
    image: str
    baked_image: str
    """The same image with the sample model in it."""
    categories: Sequence[str]
    """The categories of the Pipfile whose packages both have."""
    base: str
    """The base image of both."""
    endpoint: str
    kinesis: "KinesisClient"
    s3: "S3Client"
    stream: str
    models: str
    """The ``s3://`` URI of the folder with the models, each under its name."""
    sample: Model

    def function(
        self,
        *,
        image: str = "",
        memory_mb: int = MEMORY_MB,
        timeout: int = TIMEOUT_SECONDS,
        model: str = SAMPLE,
        **variables: str,
    ) -> contextlib.AbstractContextManager[FunctionContainer]:
        """Run the function in a container of its own, with a model from S3 unless the image has one."""
        defaults = {
            **DUMMY_CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "MODEL_NAME": "sample",
            "PREDICTION_FIELD": "minutes",
            "PREDICTIONS_STREAM_NAME": self.stream,
            "FAILURES_LOCATION": f"s3://{FAILURES_BUCKET}/{self.stream}",
            **({} if image == self.baked_image else {"MODEL_LOCATION": f"{self.models}/{model}", **pinned(model)}),
        }
        return container.run_function(
            self.engine, image or self.image, {**defaults, **variables}, memory_mb=memory_mb, timeout=timeout
        )

    def predictions(self) -> list[Prediction]:
        """Return the predictions on the output stream."""
        records = ShardReader(self.kinesis, self.stream, SHARD).read()
        return [read_prediction(record["Data"]) for record in records]

    def rejections(self) -> list[tuple[str, str]]:
        """Return the event_id and kind of each rejection in the failures bucket."""
        listed = self.s3.list_objects_v2(Bucket=FAILURES_BUCKET, Prefix=f"{self.stream}/").get("Contents", [])
        bodies = [self.s3.get_object(Bucket=FAILURES_BUCKET, Key=entry["Key"])["Body"].read() for entry in listed]
        lines = [msgspec.json.decode(line, type=RejectionLine) for body in bodies for line in body.splitlines()]
        return [(line.event_id, line.kind) for line in lines]


def good_rides(count: int) -> dict[str, Any]:
    """Return an event of ``count`` good rides."""
    return kinesis_event(generate_rides(count, seed=0))


def holds_the_locked_packages_and_the_modules(stage: Stage) -> str:
    """The image adds nothing else to its base: packages in locked versions, with bytecode of exactly their source."""
    return checks.check_content(stage.engine, stage.image, stage.base, "lambda", stage.categories)


def is_confined(stage: Stage) -> str:
    """The container is as restricted as Lambda's sandbox; otherwise the other scenarios would prove little."""
    with stage.function() as function:
        return checks.check_confinement(function, USER, MEMORY_MB)


def starts_from_bytecode_alone(stage: Stage) -> str:
    """A cold start compiles no module, because it could not keep the bytecode."""
    with stage.function() as function:
        return checks.check_bytecode(function, "lambda_function")


def predicts_a_good_batch(stage: Stage) -> str:
    """Every ride is on the output stream, with the duration that the model predicts outside of the image."""
    with stage.function() as function:
        return _settle(stage, function, good_rides(500))


def sets_bad_records_aside(stage: Stage) -> str:
    """One record in five is not a ride: the bucket has these, and the stream has predictions of the others."""
    with stage.function() as function:
        return _settle(stage, function, kinesis_event(with_bad_rides(generate_rides(200, seed=1), percent=20, seed=1)))


def takes_aggregated_records_apart(stage: Stage) -> str:
    """Each ride in a record of the Kinesis Producer Library is predicted."""
    with stage.function() as function:
        return _settle(stage, function, kinesis_event(aggregate(generate_rides(500, seed=2))))


def needs_no_s3_with_a_model_in_it(stage: Stage) -> str:
    """The function loads a baked model without any S3."""
    with stage.function(image=stage.baked_image, AWS_ENDPOINT_URL_S3="http://127.0.0.1:1") as function:
        return _settle(stage, function, good_rides(100))


def refuses_to_start_without_a_model(stage: Stage) -> str:
    """The init error names the place."""
    with stage.function(model="nothing") as function:
        return expect_failure(function, "NoSuchFileError", f"there is no MLmodel in {stage.models}/nothing")


def refuses_a_model_of_another_digest(stage: Stage) -> str:
    """The init error names the variable with the other digest."""
    with stage.function(MODEL_SHA256="0" * 64) as function:
        return expect_failure(function, "ModelError", "is not what MODEL_SHA256 names")


def fails_without_an_output_stream(stage: Stage) -> str:
    """The whole invocation fails, so that Lambda redelivers the batch."""
    with stage.function(PREDICTIONS_STREAM_NAME="nonesuch") as function:
        return expect_failure(function, "DeliveryError", "ResourceNotFoundException")


def reports_in_time_what_a_hanging_stream_leaves(stage: Stage) -> str:
    """The output stream takes the request and does not answer: the function responds before its timeout."""
    timeout = 10
    event = good_rides(100)
    with (
        chaos.serve(stage.endpoint, lambda call: Delayed(600) if call.number else None) as hanging,
        stage.function(timeout=timeout, AWS_ENDPOINT_URL_KINESIS=hanging.url) as function,
    ):
        expect("response before the stream hangs", function.invoke(good_rides(1)), COMPLETE)
        began = time.monotonic()
        response = function.invoke(event)
        seconds = time.monotonic() - began
    failures = [{"itemIdentifier": record["kinesis"]["sequenceNumber"]} for record in event["Records"]]
    expect("response", response, {"batchItemFailures": failures})
    return f"all 100 records reported after {seconds:.1f} s of {timeout} s"


def outlives_a_timeout(stage: Stage) -> str:
    """A single call of the model exceeds the timeout: Lambda ends the sandbox, and the next batch starts another."""
    timeout = 20
    with stage.function(model=SLOW, timeout=timeout) as function:
        expect("response to a small batch", function.invoke(good_rides(1)), COMPLETE)
        answer = str(function.invoke(good_rides(8_000)))
        if not answer.startswith("Task timed out after"):
            raise ScenarioError(f"a batch that takes longer than {timeout} s is answered {answer[:200]}")
        expect("response after the timeout", function.invoke(good_rides(1)), COMPLETE)
    return f"{answer.strip()}; the next batch starts afresh"


def outlives_running_out_of_memory(stage: Stage) -> str:
    """The kernel kills the function in mid-batch, and the next batch starts a new one."""
    memory_mb = 512
    with stage.function(model=GREEDY, memory_mb=memory_mb) as function:
        expect("response to a small batch", function.invoke(good_rides(1)), COMPLETE)
        kills = int(function.python(COUNT_KILLS))
        summary = expect_failure(function, "Runtime.ExitError", "signal: killed", good_rides(2_000))
        expect("whether the kernel killed it for lack of memory", int(function.python(COUNT_KILLS)) > kills, True)
        expect("response after the kill", function.invoke(good_rides(1)), COMPLETE)
    return f"{summary}, at {memory_mb} MB; the next batch starts afresh"


SCENARIOS: Sequence[Callable[[Stage], str]] = (
    holds_the_locked_packages_and_the_modules,
    is_confined,
    starts_from_bytecode_alone,
    predicts_a_good_batch,
    sets_bad_records_aside,
    takes_aggregated_records_apart,
    needs_no_s3_with_a_model_in_it,
    refuses_to_start_without_a_model,
    refuses_a_model_of_another_digest,
    fails_without_an_output_stream,
    reports_in_time_what_a_hanging_stream_leaves,
    outlives_a_timeout,
    outlives_running_out_of_memory,
)


def _settle(stage: Stage, function: FunctionContainer, event: dict[str, Any]) -> str:
    """Invoke the function, and check that each record became the right prediction or a rejection."""
    received, rejections = decode_event(event)
    expect("response", function.invoke(event), COMPLETE)
    durations = stage.sample.predict([ride.event.ride for ride in received])
    predicted = [
        (f"{duration:.6f}", stage.sample.version, ride.event.ride_id, ride.record.event_id)
        for ride, duration in zip(received, durations, strict=True)
    ]
    # Six digits: two builds of a library may differ in the last ones.
    found = [(f"{one.value:.6f}", one.version, one.ride_id, one.event_id) for one in stage.predictions()]
    _expect_same("predictions", found, predicted)
    rejected = [(rejection.record.event_id, rejection.kind) for rejection in rejections]
    _expect_same("rejections", stage.rejections(), rejected)
    suffix = f", {len(rejected)} rejected" if rejected else ""
    return f"{len(event['Records'])} records: {len(found)} rides predicted{suffix}"


def expect_failure(function: FunctionContainer, kind: str, words: str, event: dict[str, Any] | None = None) -> str:
    """Invoke the function, and check that it fails with an error of the kind whose message contains the words."""
    answer = function.invoke(event or good_rides(10))
    if not isinstance(answer, dict) or answer.get("errorType") != kind or words not in answer["errorMessage"]:
        raise ScenarioError(f"expected an error {kind} that says “{words}”, not {str(answer)[:300]}")
    return f"{kind}: … {words}"


def _expect_same(what: str, found: Iterable[object], expected: Iterable[object]) -> None:
    """Check that both contain the same values, each as often, in any order."""
    have, need = Counter(found), Counter(expected)
    expect(f"{what} missing and too many", [*(need - have), *(have - need)], [])
