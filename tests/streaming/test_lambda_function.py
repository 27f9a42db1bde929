"""The handler as Lambda runs it: a cold start from the environment, then batches in and responses out."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from artifacts import ModelError
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.faults import Call, Decide, FailedEntries, Fault
from scripts.localaws.sandbox import LambdaContext
from settings import SettingsError
from streaming import delivery
from tests.builders import copy_saying, kinesis_event, packed, ride_event
from tests.conftest import SAMPLE_MODEL, Clock
from tests.flow import Chaos

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

Function = Callable[..., ModuleType]
Read = Callable[[], list[dict[str, Any]]]

pytestmark = pytest.mark.kinesis("moto", "kinesis-local")


@pytest.fixture
def function(cold_start: Function, stream: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Function:
    """Give a function that cold-starts the handler's module with a stream and a bucket of the test's own."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)
    usual = {"PREDICTIONS_STREAM_NAME": stream, "FAILURES_LOCATION": f"s3://{bucket}/rejections"}
    return lambda **variables: cold_start(**{**usual, **variables})


@pytest.fixture
def predictions(kinesis: "KinesisClient", stream: str) -> Read:
    """Give a function that reads the predictions on the output stream, each with its partition key."""

    def read() -> list[dict[str, Any]]:
        reader = ShardReader(kinesis, stream, shard_ids(kinesis, stream)[0])
        return [{**json.loads(record["Data"]), "key": record["PartitionKey"]} for record in reader.read()]

    return read


@pytest.fixture
def objects(s3: "S3Client", bucket: str) -> Callable[[], dict[str, list[dict[str, Any]]]]:
    """Give a function that reads the failures bucket: the lines of each object, by key."""

    def read() -> dict[str, list[dict[str, Any]]]:
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
        bodies = {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
        return {key: [json.loads(line) for line in body.splitlines()] for key, body in bodies.items()}

    return read


Objects = Callable[[], dict[str, list[dict[str, Any]]]]


def throttled(is_throttled: Callable[[str], bool]) -> Decide:
    """Build the fault that throttles the entries with these partition keys, in every request."""

    def decide(call: Call) -> Fault:
        keys = [entry["PartitionKey"] for entry in call.entries]
        return FailedEntries(frozenset(index for index, key in enumerate(keys) if is_throttled(key)))

    return decide


def rides(count: int) -> dict[str, Any]:
    """Build an event of ``count`` rides, whose ids are from 0."""
    return kinesis_event(*(ride_event(number) for number in range(count)))


def ids(predictions: list[dict[str, Any]]) -> list[object]:
    """Return the ride ids of predictions."""
    return [found["prediction"]["ride_id"] for found in predictions]


def failed(response: dict[str, Any]) -> list[str]:
    """Return the sequence numbers that a response reports, after checking that it has nothing else."""
    assert set(response) == {"batchItemFailures"}
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


class TestDryRun:
    """``TEST_RUN=True``: the response shows what would be predicted and rejected."""

    def test_a_dry_run_responds_with_predictions_in_input_order(self, cold_start: Function) -> None:
        """No AWS service is called: the test's endpoint does not exist."""
        handler = cold_start(TEST_RUN="True", RUN_ID="abc").lambda_handler
        response = handler(kinesis_event(ride_event(256), ride_event("b"), ride_event(1)), None)
        assert (response["batchItemFailures"], response["rejections"]) == ([], [])
        assert ids(response["predictions"]) == [256, "b", 1]
        first = response["predictions"][0]
        assert (first["model"], first["version"]) == ("ride_duration_prediction_model", "abc")
        assert first["event_id"] == "shardId-000000000000:1"
        assert 10 < first["prediction"]["ride_duration"] < 40

    @pytest.mark.parametrize("said", [{}, {"field": "fare_amount", "target": "fare"}])
    @pytest.mark.parametrize("setting", ["", "tip_amount"])
    def test_the_predicted_value_may_have_another_name(
        self, cold_start: Function, tmp_path: Path, said: dict[str, str], setting: str
    ) -> None:
        """The name is the setting, or else the field in the model's artifact, or else ride_duration."""
        model = copy_saying(said, tmp_path / "model")
        handler = cold_start(TEST_RUN="True", PREDICTION_FIELD=setting, MODEL_LOCATION=model).lambda_handler
        (found,) = handler(kinesis_event(ride_event(256)))["predictions"]
        name = setting or said.get("field", "ride_duration")
        assert found["prediction"] == {name: pytest.approx(15.7, abs=0.1), "ride_id": 256}

    @pytest.mark.parametrize("field", ["ride_id", "ride_id\n", "x" * 100_000, "tip amount", 5, None])
    def test_an_artifact_cannot_name_the_value_like_the_id(
        self, cold_start: Function, tmp_path: Path, field: object
    ) -> None:
        """The cold start fails with one line that names the place in the artifact."""
        model = copy_saying({"field": field}, tmp_path / "model")
        with pytest.raises(
            ModelError, match=r"metadata\.ride_model that cannot be read: .* - at `\$\.field`"
        ) as caught:
            cold_start(TEST_RUN="True", MODEL_LOCATION=model)
        assert str(caught.value).isprintable()

    def test_a_dry_run_needs_no_region_and_no_credentials(
        self, cold_start: Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A clone and a model are enough."""
        for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        handler = cold_start(TEST_RUN="True").lambda_handler
        assert len(handler(rides(1))["predictions"]) == 1

    def test_a_dry_run_writes_nothing(self, function: Function, predictions: Read, objects: Objects) -> None:
        """The response has the rejections too, although stream and bucket are given."""
        response = function(TEST_RUN="True").lambda_handler(kinesis_event(ride_event(), b"{"), None)
        assert response["batchItemFailures"] == []
        assert len(response["predictions"]) == 1
        assert response["rejections"] == [
            {
                "kind": "json",
                "reason": "Input data was truncated",
                "event_id": "shardId-000000000000:2",
                "sequence_number": "2",
            }
        ]
        assert (predictions(), objects()) == ([], {})


class TestBatches:
    """Batches of all sizes, with services that work."""

    @pytest.mark.kinesis("moto", reason="kinesis-local takes half a minute for 10,000 records")
    @pytest.mark.parametrize("count", [0, 1, 501, 10_000])
    def test_every_ride_is_predicted_once(self, function: Function, predictions: Read, count: int) -> None:
        """The response has no predictions, because they might not fit into it."""
        assert function().lambda_handler(rides(count), None) == {"batchItemFailures": []}
        assert Counter(ids(predictions())) == Counter(range(count))

    def test_the_partition_key_is_the_ride_id(self, function: Function, predictions: Read) -> None:
        """The key is text, whatever type the id has. In the data the id keeps its type."""
        function().lambda_handler(kinesis_event(ride_event(7), ride_event("ü")), None)
        assert [(found["key"], found["prediction"]["ride_id"]) for found in predictions()] == [("7", 7), ("ü", "ü")]

    def test_a_redelivery_repeats_the_event_ids(self, function: Function, predictions: Read) -> None:
        """Readers can drop duplicates by them."""
        handler = function().lambda_handler
        for _ in range(2):
            handler(rides(2), None)
        event_ids = [found["event_id"] for found in predictions()]
        assert event_ids[:2] == event_ids[2:]
        assert len(set(event_ids)) == 2


class TestRejections:
    """Records that will never become predictions."""

    def test_rejections_are_stored_and_the_shard_moves_on(
        self, function: Function, predictions: Read, objects: Objects
    ) -> None:
        """The batch gives one object, and the rides around the rejections are predicted."""
        event = kinesis_event("eyJ*", ride_event(2), b"{", ride_event(4), ride_event(trip_distance=120098.8))
        assert failed(function().lambda_handler(event, None)) == []
        assert ids(predictions()) == [2, 4]
        (lines,) = objects().values()
        assert [(line["sequence_number"], line["kind"], line["data"]) for line in lines] == [
            (str(number), kind, event["Records"][number - 1]["kinesis"]["data"])
            for number, kind in ((1, "base64"), (3, "json"), (5, "ride"))
        ]

    def test_a_redelivery_overwrites_the_object(self, function: Function, objects: Objects) -> None:
        """The bucket still has one object."""
        handler = function().lambda_handler
        for _ in range(2):
            handler(kinesis_event(b"{", ride_event(), b"{"), None)
        (key,) = objects()
        assert key.startswith("rejections/ride_events/shardId-000000000000/1-3-")

    @pytest.mark.parametrize("location", ["", "s3://no-such-bucket"])
    def test_rejections_that_are_not_stored_are_reported(
        self, function: Function, predictions: Read, location: str
    ) -> None:
        """Then the mapping's own policy decides. The lowest number comes first, compared as numbers."""
        handler = function(FAILURES_LOCATION=location).lambda_handler
        data = [ride_event(number) if number not in (2, 9, 10) else b"{" for number in range(1, 12)]
        assert failed(handler(kinesis_event(*data), None)) == ["2", "9", "10"]
        assert len(predictions()) == 8


class TestUndelivered:
    """Predictions that the output stream does not accept."""

    def test_undelivered_rides_are_reported_lowest_first(self, function: Function, chaos: Chaos) -> None:
        """The numbers are those of the input records."""
        with chaos(throttled(lambda key: key in ("3", "10"))):
            handler = function(FAILURES_LOCATION="").lambda_handler
            data = [ride_event(number) if number != 5 else b"{" for number in range(1, 12)]
            assert failed(handler(kinesis_event(*data), None)) == ["3", "5", "10"]

    @pytest.mark.kinesis("moto", reason="kinesis-local takes half a minute for 10,000 records")
    def test_entries_that_are_throttled_once_are_delivered(
        self, function: Function, chaos: Chaos, predictions: Read
    ) -> None:
        """One invocation delivers each of 10,000 rides once, although every third is throttled at first."""
        tried: set[str] = set()

        def every_third_at_first(call: Call) -> Fault:
            keys = [entry["PartitionKey"] for entry in call.entries]
            first = {index for index, key in enumerate(keys) if int(key) % 3 == 0 and key not in tried}
            tried.update(keys)
            return FailedEntries(frozenset(first))

        with chaos(every_third_at_first):
            assert failed(function().lambda_handler(rides(10_000))) == []
        assert sorted(found["prediction"]["ride_id"] for found in predictions()) == list(range(10_000))

    def test_a_stream_that_stays_throttled_leaves_time_and_a_checkpoint(
        self, function: Function, chaos: Chaos, predictions: Read, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All records before the lowest reported one are predicted, and the handler responds within its time."""
        # Only the time of the waits counts here, and only the end of the time stops the attempts.
        monkeypatch.setattr(delivery, "REQUEST_SECONDS", 60)
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
        monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 1.0)
        with chaos(throttled(lambda key: int(key) >= 1200)) as server:
            handler = function().lambda_handler
            context = LambdaContext(300)
            reported = failed(handler(rides(10_000), context))
        assert len(server.entry_counts) > 3
        assert 0 < context.get_remaining_time_in_millis() < 20_000
        assert reported == [str(number + 1) for number in range(1200, 10_000)]
        assert Counter(ids(predictions())) == Counter(range(1200))

    def test_a_stream_that_stays_throttled_leaves_time_to_store(
        self, function: Function, chaos: Chaos, objects: Objects, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A quarter of the time is reserved for the rejections."""
        monkeypatch.setattr(delivery, "REQUEST_SECONDS", 60)
        monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1_000_000)
        monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 1.0)
        with chaos(throttled(lambda key: key == "1")):
            handler = function().lambda_handler
            assert failed(handler(kinesis_event(ride_event(1), b"{"), LambdaContext(300))) == ["1"]
        assert len(objects()) == 1

    def test_packed_rides_are_reported_by_the_number_of_their_record(self, function: Function, chaos: Chaos) -> None:
        """Lambda can redeliver only the whole record."""
        record = packed(*(json.dumps(ride_event(number)).encode() for number in (10, 11, 12)))
        with chaos(throttled(lambda key: key in ("11", "12"))):
            response = function().lambda_handler(kinesis_event(ride_event(1), record, ride_event(3)), None)
        assert failed(response) == ["2"]

    def test_all_records_are_reported_if_there_is_no_time(self, function: Function, predictions: Read) -> None:
        """A fifth of a second is less than a request needs."""
        assert failed(function().lambda_handler(rides(2), LambdaContext(0.2))) == ["1", "2"]
        assert predictions() == []

    def test_rides_that_were_not_tried_in_time_are_reported(
        self, function: Function, objects: Objects, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are not rejections. The rides that were tried alone are, and come before them."""
        module = function()

        def slow(features: list[dict[str, Any]]) -> Any:
            clock.sleep(0.05)
            raise ZeroDivisionError

        monkeypatch.setattr(module.MODEL, "_call", slow)
        # S3 gets a minute to store the rejections, so that a slow machine makes no difference.
        monkeypatch.setattr(delivery, "MIN_REQUEST_SECONDS", 60)
        monkeypatch.setattr(delivery, "REQUEST_SECONDS", 60)
        reported = failed(module.lambda_handler(rides(1000), LambdaContext(130)))
        ((*lines,),) = objects().values()
        numbers = [int(line["sequence_number"]) for line in lines]
        assert 0 < len(numbers) < 1000
        assert sorted([*numbers, *map(int, reported)]) == list(range(1, 1001))
        assert min(map(int, reported)) > max(numbers)


class TestColdStart:
    """Cold starts, and the errors that stop them."""

    @pytest.mark.parametrize(
        ("environment", "error", "named"),
        [
            pytest.param({}, SettingsError, "PREDICTIONS_STREAM_NAME", id="no stream"),
            pytest.param({"TEST_RUN": "True", "MODEL_LOCATION": ""}, SettingsError, "MODEL_LOCATION", id="no model"),
            pytest.param({"TEST_RUN": "True", "MODEL_LOCATION": "/gone"}, ModelError, "/gone", id="no such folder"),
            pytest.param({"TEST_RUN": "True", "MODEL_SHA256": "0" * 64}, ModelError, "MODEL_SHA256", id="wrong digest"),
        ],
    )
    def test_an_error_of_a_cold_start_names_the_cause_in_one_line(
        self, cold_start: Function, environment: dict[str, str], error: type[Exception], named: str
    ) -> None:
        """Lambda shows the line as the init error."""
        with pytest.raises(error, match=named):
            cold_start(**environment)

    def test_a_run_in_a_bucket_is_found(
        self, function: Function, s3: "S3Client", bucket: str, predictions: Read
    ) -> None:
        """MODEL_BUCKET and RUN_ID are enough for a model that MLflow 3 logged."""
        mlmodel = (Path(SAMPLE_MODEL) / "MLmodel").read_text()
        (run_id,) = (line.removeprefix("run_id: ") for line in mlmodel.splitlines() if line.startswith("run_id: "))
        for path in Path(SAMPLE_MODEL).iterdir():
            s3.upload_file(str(path), bucket, f"1/models/m-0123/artifacts/{path.name}")
        handler = function(MODEL_LOCATION="", MODEL_BUCKET=bucket, RUN_ID=run_id).lambda_handler
        assert failed(handler(rides(1), None)) == []
        assert predictions()[0]["version"] == run_id
