"""The scenarios of the batch job's image: each is a function that checks one behaviour and returns a summary."""

import contextlib
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batch.manifests import MANIFEST, Manifest
from batch.outputs import Place
from batch.places import open_place
from batch_job import Job, ScoredMonth, score_month
from scripts.cli import SAMPLE_MODEL
from scripts.image import checks, container
from scripts.image.checks import ScenarioError, expect
from scripts.image.container import Container
from scripts.image.models import SAMPLE
from scripts.image.scenarios import Stage
from scripts.image.trip_files import MONTH, make_trips, read_values
from scripts.localaws import chaos
from scripts.localaws.faults import Call, Delayed, Fault
from scripts.localaws.moto import DUMMY_CREDENTIALS, REGION
from settings import ModelSettings

ROWS = 2_000
MEMORY_MB, FLOW_MEMORY_MB = 512, 1024
"""The memory of a job, and of a flow with a temporary Prefect server beside it."""
USER = 10001
JOB = ("python3", "-m", "batch_job", *map(str, MONTH))
SLEEP = ("python3", "-c", "import time; time.sleep(600)")
"""The command of a container in which the scenario runs others."""
WORKER_COMMANDS = (
    ("prefect", "flow-run", "execute", "--help"),
    ("distributed.cli.dask_scheduler", "--version"),
    ("distributed.cli.dask_worker", "--version"),
)
NO_S3 = "http://127.0.0.1:1"
STOP_SECONDS = 60
TERMINATED, KILLED = 128 + 15, 128 + 9
"""Exit codes: a process that ends itself at SIGTERM, and one that is killed."""
REMOVE = """
import pathlib, shutil
for folder in pathlib.Path("/shared").glob("*/"):
    shutil.rmtree(folder)
"""


@dataclass(frozen=True)
class BatchStage:
    """The batch job's image, the stage of the function's image beside it, and a month of trips."""

    function_stage: Stage
    image: str
    baked_image: str
    """The same image with the sample model in it."""
    base: str
    """The base image of both."""
    bucket: str
    """A bucket that only one scenario uses, with a month's file below ``trips/``."""

    @property
    def source(self) -> str:
        """The folder of the month's file in S3."""
        return f"s3://{self.bucket}/trips/"

    def output(self, folder: str = "output") -> str:
        """Return an output in S3."""
        return f"s3://{self.bucket}/{folder}"

    def place(self, output: str) -> Place:
        """Return the place of the month below an output, as this machine sees it."""
        return open_place(output, MONTH.place(self.function_stage.sample.version))

    @contextlib.contextmanager
    def run(
        self,
        *command: str,
        image: str = "",
        volume: str = "",
        model: str = SAMPLE,
        memory_mb: int = MEMORY_MB,
        **variables: str,
    ) -> Iterator[Container]:
        """Run a command in a container of its own, with a model from S3 unless the image has one."""
        stage = self.function_stage
        given = {**DUMMY_CREDENTIALS, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": stage.endpoint}
        if image != self.baked_image:
            given["MODEL_LOCATION"] = f"{stage.models}/{model}"
        options = ["--stop-timeout=0", *([f"--volume={volume}"] if volume else [])]
        with container.run(
            stage.engine, image or self.image, {**given, **variables}, memory_mb, *options, command=command
        ) as name:
            yield Container(stage.engine, name)

    def score(self, source: str, output: str, *, image: str = "", volume: str = "", **variables: str) -> ScoredMonth:
        """Run the job to its end, and return its outcome. Raises ScenarioError if it fails."""
        command = (*JOB, f"--input={source}", f"--output={output}")
        with self.run(*command, image=image, volume=volume, memory_mb=MEMORY_MB, **variables) as job:
            code, (stdout, stderr) = job.wait_until_ended(), job.output()
        expect("exit code and stderr", (code, stderr), (0, ""))
        return msgspec.json.decode(stdout, type=ScoredMonth)


def prepare_batch(function_stage: Stage, image: str, baked_image: str, base: str, trips: bytes = b"") -> BatchStage:
    """Return the stage of a scenario, with a bucket of its own and a month's file in it."""
    bucket = f"batch-{uuid.uuid4().hex}"
    function_stage.s3.create_bucket(Bucket=bucket)
    function_stage.s3.put_object(Bucket=bucket, Key=f"trips/{MONTH.file_name}", Body=trips or make_trips(ROWS))
    return BatchStage(function_stage, image, baked_image, base, bucket)


def holds_the_locked_packages_and_the_modules(stage: BatchStage) -> str:
    """The image adds nothing else to its base, and no package lacks another one that it requires."""
    engine, categories = stage.function_stage.engine, [*stage.function_stage.categories, "batch"]
    summary = checks.check_content(engine, stage.image, stage.base, "batch", categories)
    with stage.run(*SLEEP, PYTHONPATH="/app") as running:
        engine.call("exec", running.name, "python3", "-m", "pip", "check")
    return f"{summary}, and each package has the packages that it requires"


def is_confined(stage: BatchStage) -> str:
    """The job runs under the same restrictions as the function; otherwise other scenarios would prove little."""
    with stage.run(*SLEEP) as running:
        return checks.check_confinement(running, USER, MEMORY_MB)


def starts_from_bytecode_alone(stage: BatchStage) -> str:
    """A start compiles no module, neither of the job nor of the flow."""
    with stage.run(*SLEEP) as running:
        return checks.check_bytecode(running, "batch_job", "batch_flow")


def shows_how_it_is_used(stage: BatchStage) -> str:
    """Without a command, the container prints the help of the job, and ends."""
    with stage.run() as help_page:
        code, first = help_page.wait_until_ended(), help_page.output()[0].partition("\n")[0]
    expect("exit code", code, 0)
    expect("first line", first.startswith("usage: batch_job "), True)
    return first


def scores_a_folder_without_s3(stage: BatchStage) -> str:
    """The job writes the same files of the month as outside of the image, and a second run changes nothing."""
    settings = ModelSettings.from_environment({"MODEL_LOCATION": str(SAMPLE_MODEL)})
    with shared_folder(stage) as shared, tempfile.TemporaryDirectory() as own:
        trips = shared / MONTH.file_name
        trips.write_bytes(make_trips(ROWS))

        def score() -> ScoredMonth:
            given = {"image": stage.baked_image, "volume": f"{shared}:/shared", "AWS_ENDPOINT_URL_S3": NO_S3}
            return stage.score(f"/shared/{trips.name}", "/shared/output", **given)

        outcome, place = score(), stage.place(f"{shared}/output")
        manifest = read_complete(place)
        # The same job in this process.
        counts = score_month(Job(MONTH, str(trips), own), settings).counts
        expect("counts", outcome.counts, counts)
        expect("predictions", *(_read_values(one, "predicted_duration") for one in (place, stage.place(own))))
        expect("rejected rows", manifest.rejections, read_complete(stage.place(own)).rejections)
        expect("the second outcome", score(), msgspec.structs.replace(outcome, was_done=True, seconds=0.0))
        expect("the manifest after it", read_complete(place), manifest)
    return f"{counts.predicted:,} rows predicted, {counts.rejected:,} rejected; the second run writes nothing"


def scores_from_s3_to_s3(stage: BatchStage) -> str:
    """The model is in S3 too. A second run puts no object."""
    outcome = stage.score(stage.source, stage.output())
    manifest, before = read_complete(stage.place(stage.output())), _list_objects(stage)
    again = stage.score(stage.source, stage.output())
    expect("the second outcome", again, msgspec.structs.replace(outcome, was_done=True, seconds=0.0))
    expect("objects after it", _list_objects(stage), before)
    return f"{manifest.counts.rows:,} rows in {len(manifest.names) + 1} objects; the second run puts nothing"


def explains_failures_in_a_line(stage: BatchStage) -> str:
    """The exit code is 1, stdout is empty, and stderr has one line that names the place."""
    s3 = stage.function_stage.s3
    s3.put_object(Bucket=stage.bucket, Key="notes", Body=b"no trips")
    nowhere, notes, output = f"s3://{stage.bucket}/nowhere", f"s3://{stage.bucket}/notes", stage.output()
    cases = [
        (nowhere, output, SAMPLE, f"{nowhere}: there is no such object"),
        (notes, output, SAMPLE, f"{notes}: "),
        (stage.source, "/app/output", SAMPLE, "cannot be written: Read-only file system"),
        (stage.source, output, "nothing", f"there is no MLmodel in {stage.function_stage.models}/nothing"),
    ]
    for source, place, model, words in cases:
        with stage.run(*JOB, f"--input={source}", f"--output={place}", model=model) as job:
            code, (stdout, stderr) = job.wait_until_ended(), job.output()
        if (code, stdout, stderr.count("\n")) != (1, "", 1) or words not in stderr:
            raise ScenarioError(f"expected exit code 1 and one line that says “{words}”, not {code} with {stderr!r}")
    expect("objects of predictions", _list_objects(stage, "output/"), [])
    return f"{len(cases)} failures"


def ends_at_sigterm(stage: BatchStage) -> str:
    """In the middle of a month, the job ends before the engine kills it, and the next run completes the month."""
    return _interrupt(stage, ("stop", "-t", str(STOP_SECONDS)), TERMINATED)


def outlives_being_killed(stage: BatchStage) -> str:
    """In the middle of a month, nothing is done to end the job properly, and the next run completes the month."""
    return _interrupt(stage, ("kill",), KILLED)


def runs_the_flow(stage: BatchStage) -> str:
    """Prefect starts a temporary server in the container, whose files are in ``/tmp``."""
    call = f"score_months(first={str(MONTH)!r}, input={stage.source!r}, output={stage.output()!r})"
    with stage.run("python3", "-c", f"from batch_flow import *; {call}", memory_mb=FLOW_MEMORY_MB) as flow:
        code, (_, stderr) = flow.wait_until_ended(), flow.output()
    if code:
        raise ScenarioError(f"the flow ended with exit code {code}: {stderr[-300:]}")
    return f"{read_complete(stage.place(stage.output())).counts.rows:,} rows in {FLOW_MEMORY_MB} MB"


def has_the_commands_of_workers(stage: BatchStage) -> str:
    """Prefect's workers and Dask start their processes with these modules."""
    with stage.run(*SLEEP) as running:
        for module, *arguments in WORKER_COMMANDS:
            running.engine.call("exec", running.name, "python3", "-m", module, *arguments)
    return ", ".join(module for module, *_ in WORKER_COMMANDS)


BATCH_SCENARIOS: Sequence[Callable[[BatchStage], str]] = (
    holds_the_locked_packages_and_the_modules,
    is_confined,
    starts_from_bytecode_alone,
    shows_how_it_is_used,
    scores_a_folder_without_s3,
    scores_from_s3_to_s3,
    explains_failures_in_a_line,
    ends_at_sigterm,
    outlives_being_killed,
    runs_the_flow,
    has_the_commands_of_workers,
)


@contextlib.contextmanager
def shared_folder(stage: BatchStage) -> Iterator[Path]:
    """Give a folder in which the image's user may write. A container removes its files, which are that user's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        try:
            yield folder
        finally:
            engine = stage.function_stage.engine
            engine.call("run", "--rm", "--user=0", f"--volume={folder}:/shared", stage.image, "python3", "-c", REMOVE)


def read_complete(place: Place) -> Manifest:
    """Return the manifest of a place. Raises ScenarioError unless there are its files and no others."""
    manifest = place.read_manifest()
    if not manifest:
        raise ScenarioError(f"{place.location} has no manifest, but {sorted(place.names())}")
    expect("files", sorted(place.names()), sorted({MANIFEST, *manifest.names}))
    expect("whether the files are complete", all(map(place.holds, manifest.files)), True)
    return manifest


def _read_values(place: Place, field: str) -> list[tuple[str, str, str]]:
    with place.open(read_complete(place).predictions.name) as file:
        return read_values(file, field)


def _interrupt(stage: BatchStage, end: Sequence[str], code: int) -> str:
    """End a job that has written the month's files but not its manifest, and run it again."""
    undisturbed = stage.output("undisturbed")
    stage.score(stage.source, undisturbed)
    expected, place = read_complete(stage.place(undisturbed)), stage.place(stage.output())
    reached = threading.Event()

    def hang_at_the_predictions(call: Call) -> Fault | None:
        if "/part-" not in call.key:
            return None
        reached.set()
        return Delayed(600)

    with (
        chaos.serve(stage.function_stage.endpoint, hang_at_the_predictions) as hanging,
        stage.run(*JOB, f"--input={stage.source}", f"--output={stage.output()}", AWS_ENDPOINT_URL=hanging.url) as job,
    ):
        expect("whether the job writes the predictions", reached.wait(STOP_SECONDS), True)
        job.engine.call(*end, job.name)
        expect("exit code", job.wait_until_ended(), code)
    expect("the manifest after the end", place.read_manifest(), None)
    outcome = stage.score(stage.source, stage.output())
    found = read_complete(place)
    expect("whether the next run writes", outcome.was_done, False)
    expect("files of the next run", found.files, expected.files)
    expect("counts of the next run", found.counts, expected.counts)
    return f"exit code {code}; the next run writes the same files as a run that nothing disturbs"


def _list_objects(stage: BatchStage, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return the key, the digest and the time of each object in the bucket."""
    listed = stage.function_stage.s3.list_objects_v2(Bucket=stage.bucket, Prefix=prefix).get("Contents", [])
    return [(entry["Key"], entry["ETag"], str(entry["LastModified"])) for entry in listed]
