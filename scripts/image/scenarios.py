"""What the image must do, scenario by scenario, against the local AWS; each is a function that says what it saw."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from model import Model
from rides import Prediction
from scripts.aws.predictions import read_prediction
from scripts.aws.shards import ShardReader
from scripts.environment import ROOT, locked
from scripts.image import container
from scripts.image.container import (
    CPUS,
    MEMORY_MB,
    OPEN_FILES,
    PROCESSES,
    TIMEOUT_SECONDS,
    TMP_MB,
    USER,
    FunctionContainer,
)
from scripts.image.engine import Engine
from scripts.image.heavy_model import GREEDY, SLOW
from scripts.localaws import chaos
from scripts.localaws.moto import DUMMY_CREDENTIALS, REGION
from scripts.localaws.setup import FAILURES_BUCKET
from scripts.sources.aggregated import aggregated
from scripts.sources.bad import spoiled
from scripts.sources.chosen import generated_rides
from scripts.sources.events import SHARD, kinesis_event
from streaming.records import ReceivedRide, decode_event

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

MODEL_NAME, FIELD = "sample", "minutes"
NOWHERE = "http://127.0.0.1:1"
COMPLETE: dict[str, Any] = {"batchItemFailures": []}
TIMED_OUT = "Task timed out after"

CONFINED: dict[str, Any] = {
    "uid": USER,
    "capabilities": 0,
    "gains_privileges": False,
    "root": "ro",
    "writable": ["/tmp"],  # noqa: S108
    "tmp_mb": TMP_MB,
    "open_files": [OPEN_FILES, OPEN_FILES],
    "processes": [PROCESSES, PROCESSES],
    "memory_mb": MEMORY_MB,
    "cpus": CPUS,
}
"""What the function must find of itself."""

LIST_FILES = """
import json, os
paths = [os.path.join(folder, name) for folder, folders, files in os.walk("/") for name in folders + files]
print(json.dumps([path for path in paths if path.split("/")[1] not in ("dev", "proc", "sys")]))
"""

TAKE_STOCK = """
import importlib.metadata, importlib.util, json, os, pathlib
root = pathlib.Path("/var/task")
packages = list(importlib.metadata.distributions(path=[str(root)]))
owned = {str(file) for package in packages for file in package.files}
files = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
sources = [file for name, file in files.items() if name.endswith(".py")]
bytecode = {source: pathlib.Path(importlib.util.cache_from_source(source)) for source in sources}
def is_compiled(source):
    # PEP 552: flags of 1 are for a hash of the source that is never checked.
    header = importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(source.read_bytes())
    return bytecode[source].is_file() and bytecode[source].read_bytes().startswith(header)
print(json.dumps({
    "packages": {package.name: package.version for package in packages},
    "others": sorted(name for name, file in files.items() if name not in owned and file not in bytecode.values()),
    "uncompiled": [str(source) for source in sources if not is_compiled(source)],
    "model": os.environ.get("MODEL_LOCATION", ""),
}))
"""

LOOK_AROUND = """
import json, os, pathlib, resource
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
mounts = [line.split() for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
def is_writable(folder):
    try:
        pathlib.Path(folder, "written").write_text("")
    except OSError:
        return False
    return True
folders = ["/", "/dev", "/dev/shm", "/etc", "/opt", "/run", "/tmp", "/var/lang", "/var/task", "/var/tmp"]
tmp = os.statvfs("/tmp")
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "gains_privileges": status["NoNewPrivs"].strip() == "0",
    "root": next(options.split(",")[0] for _, _, _, _, point, options, *_ in mounts if point == "/"),
    "writable": [folder for folder in folders if is_writable(folder)],
    "tmp_mb": tmp.f_blocks * tmp.f_frsize // 2**20,
    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "processes": resource.getrlimit(resource.RLIMIT_NPROC),
}))
"""

START = """
import sys
compiled = []
def note(event, arguments):
    if event == "compile" and str(arguments[1]).endswith(".py"):
        compiled.append(str(arguments[1]))
sys.addaudithook(note)
import json
import lambda_function
print(json.dumps(compiled))
"""


class ScenarioError(Exception):
    """The image did something else than it must; the message says what."""


@dataclass(frozen=True)
class Stage:
    """An image and the local AWS, with an output stream and a place for rejections of the scenario's own."""

    engine: Engine
    image: str
    baked_image: str
    """The same with the sample model in it."""
    base: str
    """What both stand on."""
    endpoint: str
    kinesis: "KinesisClient"
    s3: "S3Client"
    stream: str
    models: str
    """The ``s3://`` URI under which the sample model and the heavy ones lie, each by its name."""
    sample: Model

    def function(
        self,
        *,
        image: str | None = None,
        memory_mb: int = MEMORY_MB,
        timeout: int = TIMEOUT_SECONDS,
        model: str = "sample",
        **variables: str,
    ) -> contextlib.AbstractContextManager[FunctionContainer]:
        """Run the function in a container of its own, with the model out of S3 but in the image that has one."""
        usual = {
            **DUMMY_CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "MODEL_NAME": MODEL_NAME,
            "PREDICTION_FIELD": FIELD,
            "PREDICTIONS_STREAM_NAME": self.stream,
            "FAILURES_LOCATION": f"s3://{FAILURES_BUCKET}/{self.stream}",
            **({} if image == self.baked_image else {"MODEL_LOCATION": f"{self.models}/{model}"}),
        }
        return container.running(
            self.engine, image or self.image, {**usual, **variables}, memory_mb=memory_mb, timeout=timeout
        )

    def predictions(self) -> list[Prediction]:
        """Return what lies on the output stream."""
        records = ShardReader(self.kinesis, self.stream, SHARD).read()
        return [read_prediction(record["Data"]) for record in records]

    def rejections(self) -> list[tuple[str, str]]:
        """Return the event_id and kind of each rejection that the failures bucket keeps."""
        listed = self.s3.list_objects_v2(Bucket=FAILURES_BUCKET, Prefix=f"{self.stream}/").get("Contents", [])
        bodies = [self.s3.get_object(Bucket=FAILURES_BUCKET, Key=entry["Key"])["Body"].read() for entry in listed]
        lines = [json.loads(line) for body in bodies for line in body.splitlines()]
        return [(line["event_id"], line["kind"]) for line in lines]

    def look_into(self, image: str, code: str) -> Any:
        """Run code in an image as it was built, and return what it printed, which is JSON."""
        # -B: nothing is written there that was not there.
        return json.loads(self.engine.call("run", "--rm", "--entrypoint=python3", image, "-B", "-c", code))


def good_rides(number: int) -> dict[str, Any]:
    """Return an event of so many good rides."""
    return kinesis_event(generated_rides(number, seed=0))


def holds_the_locked_packages_and_the_modules(stage: Stage) -> str:
    """They are all that the base image has not, each in its locked version, with bytecode of its very source."""
    held = stage.look_into(stage.image, TAKE_STOCK)
    found = {name.lower().replace("_", "-"): version for name, version in held["packages"].items()}
    wanted = {name: package["version"].removeprefix("==") for name, package in locked(["packages"]).items()}
    _expect("packages", found, wanted)
    _expect("other files", held["others"], sorted(path.name for path in ROOT.glob("*.py")))
    _expect("files without bytecode of their own", held["uncompiled"], [])
    _expect("MODEL_LOCATION", held["model"], "")
    new = set(stage.look_into(stage.image, LIST_FILES)) - set(stage.look_into(stage.base, LIST_FILES))
    elsewhere = sorted(path for path in new if not path.startswith("/var/task/"))
    _expect("new files outside of the task root", elsewhere, ["/opt/model"])
    return f"{len(found)} packages, {len(held['others'])} modules"


def is_confined(stage: Stage) -> str:
    """The scenarios below mean something: the container is as tight as Lambda's sandbox."""
    with stage.function() as function:
        limits = {"memory_mb": function.memory_limit() / 2**20, "cpus": function.cpus()}
        _expect("confinement", json.loads(function.python(LOOK_AROUND)) | limits, CONFINED)
    return f"user {USER}, no capabilities, {CPUS} CPU, {MEMORY_MB} MB, writes nowhere but in /tmp, of {TMP_MB} MB"


def starts_from_bytecode_alone(stage: Stage) -> str:
    """Nothing is compiled at a cold start, which could not be kept: neither Python's own modules nor the function's."""
    with stage.function() as function:
        _expect("compiled at the start", json.loads(function.python(START)), [])
    return "no source is compiled"


def predicts_a_good_batch(stage: Stage) -> str:
    """Every ride is on the output stream, with the duration that the model gives outside of the image."""
    with stage.function() as function:
        return _settles(stage, function, good_rides(500))


def sets_bad_records_aside(stage: Stage) -> str:
    """One in five is no ride: the bucket keeps those, and the others are predicted."""
    with stage.function() as function:
        return _settles(stage, function, kinesis_event(spoiled(generated_rides(200, seed=1), percent=20, seed=1)))


def takes_aggregated_records_apart(stage: Stage) -> str:
    """Each ride in them is predicted."""
    with stage.function() as function:
        return _settles(stage, function, kinesis_event(aggregated(generated_rides(500, seed=2))))


def needs_no_s3_with_a_model_in_it(stage: Stage) -> str:
    """A baked model is loaded where there is no S3 at all."""
    with stage.function(image=stage.baked_image, AWS_ENDPOINT_URL_S3=NOWHERE) as function:
        return _settles(stage, function, good_rides(100))


def refuses_to_start_without_a_model(stage: Stage) -> str:
    """The init error names the place."""
    with stage.function(model="nothing") as function:
        return _fails(function, "NoSuchFileError", f"there is no MLmodel in {stage.models}/nothing")


def refuses_a_model_of_another_digest(stage: Stage) -> str:
    """The init error names both digests."""
    with stage.function(MODEL_SHA256="0" * 64) as function:
        return _fails(function, "ModelError", "is not what MODEL_SHA256 names")


def fails_without_an_output_stream(stage: Stage) -> str:
    """The invocation fails as a whole, so that Lambda delivers it again."""
    with stage.function(PREDICTIONS_STREAM_NAME="nonesuch") as function:
        return _fails(function, "DeliveryError", "ResourceNotFoundException")


def reports_in_time_what_a_hanging_stream_leaves(stage: Stage) -> str:
    """The output stream takes the request and does not answer: the function does, before its timeout."""
    timeout = 10
    event = good_rides(100)
    with (
        chaos.serve(stage.endpoint, lambda call: chaos.Delayed(600) if call.number else None) as hanging,
        stage.function(timeout=timeout, AWS_ENDPOINT_URL_KINESIS=hanging.url) as function,
    ):
        _expect("response before the stream hangs", function.invoke(good_rides(1)), COMPLETE)
        began = time.monotonic()
        response = function.invoke(event)
        seconds = time.monotonic() - began
    wanted = [{"itemIdentifier": record["kinesis"]["sequenceNumber"]} for record in event["Records"]]
    _expect("response", response, {"batchItemFailures": wanted})
    return f"all 100 records reported after {seconds:.1f} s of {timeout} s"


def outlives_a_timeout(stage: Stage) -> str:
    """The last resort: a single call of the model takes longer than the function may, and Lambda ends the sandbox."""
    timeout = 20
    with stage.function(model=SLOW, timeout=timeout) as function:
        _expect("response to a small batch", function.invoke(good_rides(1)), COMPLETE)
        answer = str(function.invoke(good_rides(8_000)))
        if not answer.startswith(TIMED_OUT):
            raise ScenarioError(f"a batch that takes longer than {timeout} s is answered {answer[:200]}")
        _expect("response after the timeout", function.invoke(good_rides(1)), COMPLETE)
    return f"{answer.strip()}; the next batch starts afresh"


def outlives_running_out_of_memory(stage: Stage) -> str:
    """The kernel kills the function in mid-batch, and the next batch starts a fresh one."""
    memory_mb = 512
    with stage.function(model=GREEDY, memory_mb=memory_mb) as function:
        _expect("response to a small batch", function.invoke(good_rides(1)), COMPLETE)
        said = _fails(function, "Runtime.ExitError", "signal: killed", good_rides(2_000))
        _expect("processes that the kernel killed for want of memory", function.out_of_memory_kills(), 1)
        _expect("response after the kill", function.invoke(good_rides(1)), COMPLETE)
    return f"{said}, at {memory_mb} MB; the next batch starts afresh"


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


def _settles(stage: Stage, function: FunctionContainer, event: dict[str, Any]) -> str:
    """Invoke the function, and check that each record ended as what it is: a right prediction, or a rejection."""
    received, undecodable = decode_event(event)
    _expect("response", function.invoke(event), COMPLETE)
    wanted = _right_predictions(stage.sample, received)
    found = stage.predictions()
    _expect_same("predictions", map(_rounded, found), map(_rounded, wanted))
    rejected = [(rejection.record.event_id, rejection.kind) for rejection in undecodable]
    _expect_same("rejections", stage.rejections(), rejected)
    kept = f", {len(rejected)} rejected" if rejected else ""
    return f"{len(event['Records'])} records: {len(found)} rides predicted{kept}"


def _right_predictions(model: Model, rides: Sequence[ReceivedRide]) -> list[Prediction]:
    """Return what readers must find of the rides."""
    durations = model.predict([ride.event.ride for ride in rides])
    return [
        Prediction(
            MODEL_NAME,
            model.version,
            FIELD,
            float(duration),  # type: ignore[arg-type]
            ride.event.ride_id,
            ride.record.event_id,
        )
        for ride, duration in zip(rides, durations, strict=True)
    ]


def _rounded(prediction: Prediction) -> Prediction:
    """Return a prediction without the digits in which two builds of a library may differ."""
    return replace(prediction, value=round(prediction.value, 6))


def _fails(function: FunctionContainer, kind: str, words: str, event: dict[str, Any] | None = None) -> str:
    """Invoke the function, and check that it fails with an error of the kind whose message has the words."""
    answer = function.invoke(event or good_rides(10))
    if not isinstance(answer, dict) or answer.get("errorType") != kind or words not in answer["errorMessage"]:
        raise ScenarioError(f"an error {kind} that says “{words}” was to come, and not {str(answer)[:300]}")
    return f"{kind}: … {words}"


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ScenarioError(f"{what}: {str(found)[:300]}, not {str(wanted)[:300]}")


def _expect_same(what: str, found: Iterable[object], wanted: Iterable[object]) -> None:
    """Check that both hold the same, each as often, in any order."""
    have, need = Counter(found), Counter(wanted)
    _expect(f"missing {what}", [*(need - have).elements()], [])
    _expect(f"{what} too many", [*(have - need).elements()], [])
