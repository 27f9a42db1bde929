"""The handler as Lambda runs it: a cold start from the environment, then batches in and responses out."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from artifacts import ModelError
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.faults import Call, Decide, FailedEntries, Fault
from scripts.localaws.sandbox import LambdaContext
from scripts.sources.records import RideRecord, aggregate
from settings import SettingsError
from streaming import delivery
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.flow import Chaos

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
ColdStart = Callable[..., ModuleType]

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


@pytest.fixture
def predictions(kinesis: "KinesisClient", stream: str) -> Callable[[], list[dict[str, Any]]]:
    """Give a function that reads back what the output stream holds."""

    def read() -> list[dict[str, Any]]:
        reader = ShardReader(kinesis, stream, shard_ids(kinesis, stream)[0])
        return [{**json.loads(record["Data"]), "key": record["PartitionKey"]} for record in reader.read()]

    return read


def throttled(*partition_keys: str) -> Decide:
    """Build the fault that throttles the entries with these keys, for ever."""

    def decide(call: Call) -> Fault:
        keys = [entry["PartitionKey"] for entry in call.entries]
        return FailedEntries(frozenset(index for index, key in enumerate(keys) if key in partition_keys))

    return decide


def rejections(s3: "S3Client", bucket: str) -> dict[str, list[dict[str, Any]]]:
    """Read the failures bucket: the lines of each object, by key."""
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    bodies = {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    return {key: [json.loads(line) for line in body.splitlines()] for key, body in bodies.items()}


def failed(response: dict[str, Any]) -> list[str]:
    """Return the sequence numbers that a response reports, after checking its form."""
    assert set(response) == {"batchItemFailures"}
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


class TestDryRun:
    """``TEST_RUN=True``: a look at what would be predicted."""

    def test_it_answers_with_the_predictions_in_input_order(self, cold_start: ColdStart) -> None:
        """No AWS is asked for anything: its endpoint is not even there."""
        handler = cold_start(TEST_RUN="True", RUN_ID="abc").lambda_handler
        response = handler(kinesis_event(ride_event(256), ride_event("b"), ride_event(1)), None)
        assert response["batchItemFailures"] == []
        assert [found["prediction"]["ride_id"] for found in response["predictions"]] == [256, "b", 1]
        first = response["predictions"][0]
        assert (first["model"], first["version"]) == ("ride_duration_prediction_model", "abc")
        assert first["event_id"] == "shardId-000000000000:1"
        assert 10 < first["prediction"]["ride_duration"] < 40

    def test_the_predicted_value_may_have_another_name(self, cold_start: ColdStart) -> None:
        """A model of tips is served by the same code."""
        handler = cold_start(TEST_RUN="True", PREDICTION_FIELD="tip_amount").lambda_handler
        (found,) = handler(kinesis_event(ride_event(256)))["predictions"]
        assert found["prediction"] == {"tip_amount": pytest.approx(15.7, abs=0.1), "ride_id": 256}

    def test_it_needs_no_region_and_no_credentials(
        self, cold_start: ColdStart, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A clone and a model are enough."""
        for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        handler = cold_start(TEST_RUN="True").lambda_handler
        assert len(handler(kinesis_event(ride_event()))["predictions"]) == 1

    def test_it_writes_nothing(
        self,
        cold_start: ColdStart,
        predictions: Callable[[], list[Any]],
        stream: str,
        s3: "S3Client",
        bucket: str,
    ) -> None:
        """Neither predictions nor rejections, even where it is told where they would go."""
        handler = cold_start(
            TEST_RUN="True", PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}/rejections"
        ).lambda_handler
        response = handler(kinesis_event(ride_event(), b"{"), None)
        assert response["batchItemFailures"] == []
        assert len(response["predictions"]) == 1
        assert predictions() == []
        assert rejections(s3, bucket) == {}


class TestBatches:
    """Batches of every size, with streams that work."""

    @pytest.mark.kinesis("moto", reason="kinesis-local takes half a minute for 10,000 records")
    @pytest.mark.parametrize("count", [0, 1, 501, 10_000])
    def test_every_ride_is_predicted_once(
        self, cold_start: ColdStart, predictions: Callable[[], list[Any]], stream: str, count: int
    ) -> None:
        """The response is the contract's and nothing more: a list of predictions might not fit."""
        handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
        response = handler(kinesis_event(*(ride_event(number) for number in range(count))), None)
        assert response == {"batchItemFailures": []}
        assert [found["prediction"]["ride_id"] for found in predictions()] == list(range(count))

    def test_the_partition_key_is_the_ride_id(
        self, cold_start: ColdStart, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """As text, whatever type the id has; in the data it keeps its type."""
        cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler(kinesis_event(ride_event(7), ride_event("ü")), None)
        assert [(found["key"], found["prediction"]["ride_id"]) for found in predictions()] == [("7", 7), ("ü", "ü")]

    def test_a_redelivery_repeats_the_event_ids(
        self, cold_start: ColdStart, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """So a reader can drop duplicates."""
        handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
        event = kinesis_event(ride_event(1), ride_event(2))
        handler(event, None)
        handler(event, None)
        ids = [found["event_id"] for found in predictions()]
        assert ids[:2] == ids[2:]
        assert len(set(ids)) == 2


class TestRejections:
    """Records that will never become predictions."""

    def test_they_go_to_the_failures_bucket_and_the_shard_moves_on(
        self,
        cold_start: ColdStart,
        predictions: Callable[[], list[Any]],
        stream: str,
        s3: "S3Client",
        bucket: str,
    ) -> None:
        """One object for the batch; the rides around them are predicted."""
        handler = cold_start(
            PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}/rejections"
        ).lambda_handler
        event = kinesis_event("eyJ*", ride_event(2), b"{", ride_event(4), ride_event(trip_distance=120098.8))
        assert failed(handler(event, None)) == []
        assert [found["prediction"]["ride_id"] for found in predictions()] == [2, 4]
        (lines,) = rejections(s3, bucket).values()
        assert [(line["sequence_number"], line["kind"]) for line in lines] == [
            ("1", "base64"),
            ("3", "json"),
            ("5", "ride"),
        ]
        assert [line["data"] for line in lines] == [event["Records"][index]["kinesis"]["data"] for index in (0, 2, 4)]

    def test_a_redelivery_overwrites_the_object(
        self, cold_start: ColdStart, stream: str, s3: "S3Client", bucket: str
    ) -> None:
        """It does not add a second one."""
        handler = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}").lambda_handler
        for _ in range(2):
            handler(kinesis_event(b"{", ride_event(), b"{"), None)
        (key,) = rejections(s3, bucket)
        assert key.startswith("ride_events/shardId-000000000000/1-3-")

    def test_without_a_bucket_they_are_reported(
        self, cold_start: ColdStart, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """The mapping's own policy decides then; lowest first, compared as numbers."""
        handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
        data = [ride_event(number) if number not in (2, 9, 10) else b"{" for number in range(1, 12)]
        assert failed(handler(kinesis_event(*data), None)) == ["2", "9", "10"]
        assert len(predictions()) == 8

    def test_where_the_bucket_takes_nothing_they_are_reported(
        self, cold_start: ColdStart, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """A missing bucket is not the records' fault."""
        handler = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION="s3://no-such-bucket").lambda_handler
        assert failed(handler(kinesis_event(ride_event(), b"{"), None)) == ["2"]

    def test_a_ride_that_the_model_cannot_take_is_one_of_them(
        self,
        cold_start: ColdStart,
        predictions: Callable[[], list[Any]],
        stream: str,
        s3: "S3Client",
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It does not sink its batch, and its reason says what the model raised."""
        module = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}")
        call = module.MODEL._call

        def picky(features: list[dict[str, Any]]) -> Any:
            if any(ride["PU_DO"] == "1_1" for ride in features):
                raise ZeroDivisionError("no such zone")
            return call(features)

        monkeypatch.setattr(module.MODEL, "_call", picky)
        data = [ride_event(1), ride_event(2, PULocationID=1, DOLocationID=1), ride_event(3)]
        assert failed(module.lambda_handler(kinesis_event(*data), None)) == []
        assert [found["prediction"]["ride_id"] for found in predictions()] == [1, 3]
        ((line,),) = rejections(s3, bucket).values()
        assert line["kind"] == "prediction"
        assert "ZeroDivisionError: no such zone" in line["reason"]


class TestUndelivered:
    """Predictions that the output stream does not accept."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wait little between tries."""
        monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)

    def test_they_are_reported_by_their_source_lowest_first(
        self, cold_start: ColdStart, chaos: Chaos, stream: str
    ) -> None:
        """The numbers are the input records', whatever was rejected between them."""
        with chaos(throttled("3", "10")):
            handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
            data = [ride_event(number) if number != 5 else b"{" for number in range(1, 12)]
            assert failed(handler(kinesis_event(*data), None)) == ["3", "5", "10"]

    @pytest.mark.kinesis("moto", reason="kinesis-local takes half a minute for 10,000 records")
    def test_ten_thousand_of_which_every_third_is_throttled_first_end_delivered(
        self, cold_start: ColdStart, chaos: Chaos, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """In one invocation, each once."""
        tried: set[str] = set()

        def every_third_at_first(call: Call) -> Fault:
            keys = [entry["PartitionKey"] for entry in call.entries]
            first = {index for index, key in enumerate(keys) if int(key) % 3 == 0 and key not in tried}
            tried.update(keys)
            return FailedEntries(frozenset(first))

        with chaos(every_third_at_first):
            handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
            event = kinesis_event(*(ride_event(number) for number in range(10_000)))
            assert failed(handler(event, LambdaContext(60))) == []
        assert sorted(found["prediction"]["ride_id"] for found in predictions()) == list(range(10_000))

    def test_a_stream_that_stays_throttled_leaves_time_and_a_checkpoint(
        self, cold_start: ColdStart, chaos: Chaos, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """The lowest that was not accepted, of ten thousand; all before it were."""

        def throttle_from_1200(call: Call) -> Fault:
            keys = [entry["PartitionKey"] for entry in call.entries]
            return FailedEntries(frozenset(index for index, key in enumerate(keys) if int(key) >= 1200))

        remaining = LambdaContext(5)
        with chaos(throttle_from_1200):
            handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
            event = kinesis_event(*(ride_event(number) for number in range(10_000)))
            reported = failed(handler(event, remaining))
        assert remaining.get_remaining_time_in_millis() > 0
        assert reported == [str(number + 1) for number in range(1200, 10_000)]
        assert [found["prediction"]["ride_id"] for found in predictions()] == list(range(1200))

    def test_a_stream_that_stays_throttled_leaves_time_to_store(
        self,
        cold_start: ColdStart,
        chaos: Chaos,
        stream: str,
        s3: "S3Client",
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A quarter of what there is."""
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
        monkeypatch.setattr(delivery, "MAX_BACKOFF_SECONDS", 0.01)
        with chaos(throttled("1")):
            handler = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}").lambda_handler
            assert failed(handler(kinesis_event(ride_event(1), b"{"), LambdaContext(4))) == ["1"]
        assert len(rejections(s3, bucket)) == 1

    def test_those_of_an_aggregated_record_are_reported_by_its_number(
        self, cold_start: ColdStart, chaos: Chaos, stream: str
    ) -> None:
        """Lambda can deliver only the whole record again."""
        packed = [RideRecord(str(number), json.dumps(ride_event(number)).encode()) for number in (10, 11, 12)]
        (record,) = aggregate(packed)
        with chaos(throttled("11", "12")):
            handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
            response = handler(kinesis_event(ride_event(1), record.data, ride_event(3)), None)
        assert failed(response) == ["2"]

    def test_without_time_everything_is_reported(
        self, cold_start: ColdStart, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """A fifth of a second is less than a request needs."""
        handler = cold_start(PREDICTIONS_STREAM_NAME=stream).lambda_handler
        assert failed(handler(kinesis_event(ride_event(1), ride_event(2)), LambdaContext(0.2))) == ["1", "2"]
        assert predictions() == []

    def test_a_model_that_raises_on_everything_leaves_rides_untried(
        self, cold_start: ColdStart, stream: str, s3: "S3Client", bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What there is no time for is no rejection; what was tried alone is one, and the checkpoint is behind it."""
        module = cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}")

        def slow(features: list[dict[str, Any]]) -> Any:
            time.sleep(0.05)
            raise ZeroDivisionError

        monkeypatch.setattr(module.MODEL, "_call", slow)
        event = kinesis_event(*(ride_event(number) for number in range(1000)))
        reported = failed(module.lambda_handler(event, LambdaContext(4)))
        ((*lines,),) = rejections(s3, bucket).values()
        numbers = [int(line["sequence_number"]) for line in lines]
        assert 0 < len(numbers) < 1000
        assert sorted([*numbers, *map(int, reported)]) == list(range(1, 1001))
        assert min(map(int, reported)) > max(numbers)


class TestColdStart:
    """What stops it, and what is logged."""

    @pytest.mark.parametrize(
        ("environment", "error", "named"),
        [
            pytest.param({}, SettingsError, "PREDICTIONS_STREAM_NAME", id="no stream"),
            pytest.param({"TEST_RUN": "True", "MODEL_LOCATION": ""}, SettingsError, "MODEL_LOCATION", id="no model"),
            pytest.param({"TEST_RUN": "True", "MODEL_LOCATION": "/gone"}, ModelError, "/gone", id="no such folder"),
            pytest.param({"TEST_RUN": "True", "MODEL_SHA256": "0" * 64}, ModelError, "MODEL_SHA256", id="wrong digest"),
        ],
    )
    def test_one_line_names_what_is_wrong(
        self, cold_start: ColdStart, environment: dict[str, str], error: type[Exception], named: str
    ) -> None:
        """Lambda shows it as the init error."""
        with pytest.raises(error, match=named):
            cold_start(**environment)

    def test_a_run_in_a_bucket_is_found(
        self, cold_start: ColdStart, s3: "S3Client", bucket: str, predictions: Callable[[], list[Any]], stream: str
    ) -> None:
        """MODEL_BUCKET and RUN_ID are enough for a model that MLflow 3 logged."""
        mlmodel = (Path(SAMPLE_MODEL) / "MLmodel").read_text()
        (run_id,) = (line.removeprefix("run_id: ") for line in mlmodel.splitlines() if line.startswith("run_id: "))
        for path in Path(SAMPLE_MODEL).iterdir():
            s3.upload_file(str(path), bucket, f"1/models/m-0123/artifacts/{path.name}")
        handler = cold_start(
            PREDICTIONS_STREAM_NAME=stream, MODEL_LOCATION="", MODEL_BUCKET=bucket, RUN_ID=run_id
        ).lambda_handler
        assert failed(handler(kinesis_event(ride_event()), None)) == []
        assert predictions()[0]["version"] == run_id

    def test_another_event_raises(self, cold_start: ColdStart) -> None:
        """Lambda counts an error; nothing is taken for success."""
        with pytest.raises(ValueError, match="not a Kinesis event"):
            cold_start(TEST_RUN="True").lambda_handler({"Records": [{"body": "SQS"}]}, None)

    def test_the_locked_packages_of_the_image_are_enough(self) -> None:
        """With everything else hidden, a cold start and a batch still work."""
        event = ROOT / "events" / "kinesis-one.json"
        environment = {"TEST_RUN": "True", "MODEL_LOCATION": SAMPLE_MODEL, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", ONLY_THE_IMAGES_PACKAGES, event],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout.splitlines()[-1])["predictions"][0]["prediction"]["ride_id"] == 256


ONLY_THE_IMAGES_PACKAGES = """
import importlib.metadata, json, re, sys

locked = set(json.load(open("Pipfile.lock"))["default"])
hidden = {
    top
    for top, distributions in importlib.metadata.packages_distributions().items()
    if not locked & {re.sub("[-_.]+", "-", name).lower() for name in distributions}
}


class Hide:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)


sys.meta_path.insert(0, Hide)
assert "mlflow" in hidden and "sklearn" not in hidden

import lambda_function

print(json.dumps(lambda_function.lambda_handler(json.load(open(sys.argv[1])), None)))
"""
