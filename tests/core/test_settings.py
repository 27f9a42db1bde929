"""The environment variables: the settings that they give, and the errors that stop a cold start."""

import operator

import pytest

from settings import ModelSettings, SettingsError, StreamSettings, WebSettings

MINIMUM = {"PREDICTIONS_STREAM_NAME": "ride_predictions", "MODEL_LOCATION": "s3://models/1/models/m-1/artifacts"}
ARN = "arn:aws-us-gov:kinesis:us-gov-west-1:000000000000:stream/ride_predictions"
RUN = {"PREDICTIONS_STREAM_NAME": "ride_predictions", "MODEL_BUCKET": "models", "RUN_ID": "abc"}


NO_STREAMS = (
    *('"ride_predictions"', "ride predictions", "ride\npredictions", "http://localhost/ride_predictions", "x" * 129),
    *(ARN.replace("kinesis", "firehose"), ARN.replace("stream", "table"), ARN.removesuffix("ride_predictions")),
    *(f"{ARN}/consumer/", f"{ARN}, {ARN}", "stream/ride_predictions"),
)


NO_ZONES = (
    *("New York", "America/new york", "Europe/Berlino", "America", "/etc/passwd", "../../etc/passwd", "/", "//", "+"),
    *("America/New_York/", "UTC\nUTC", "EST5EDT,M3.2.0,M11.1.0", "x" * 65, "\udcff", "zone.tab", "__init__"),
)
"""Folders, files that are no zones, paths, rules, and names that no zone has."""


def test_two_variables_are_enough() -> None:
    """Everything else has a default."""
    assert StreamSettings.from_environment(MINIMUM) == StreamSettings(
        model=ModelSettings(
            location="s3://models/1/models/m-1/artifacts",
            bucket="",
            experiment_id="1",
            run_id="",
            name="ride_duration_prediction_model",
            prediction_field=None,
            sha256=None,
            time_zone="America/New_York",
        ),
        predictions_stream="ride_predictions",
        failures_location=None,
        dry_run=False,
        log_level="INFO",
        metrics_namespace="RidePredictions",
    )


@pytest.mark.parametrize("name", ["TEST_RUN", "POWERTOOLS_METRICS_DISABLED"])
def test_metrics_can_be_disabled(name: str) -> None:
    """A dry run is not traffic, and Powertools has a variable that disables metrics."""
    assert StreamSettings.from_environment({**MINIMUM, name: "true"}).metrics_namespace is None


def test_a_run_names_the_model_too() -> None:
    """The course's three variables are enough, and no variable of the stream is needed."""
    settings = ModelSettings.from_environment({"MODEL_BUCKET": "models", "RUN_ID": "abc"})
    assert (settings.bucket, settings.experiment_id, settings.run_id) == ("models", "1", "abc")
    assert settings.location is None


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("PREDICTIONS_STREAM_NAME", " ride_predictions\n", "predictions_stream", "ride_predictions"),
        ("MODEL_SHA256", "AB" * 32, "model.sha256", "ab" * 32),
        ("FAILURES_LOCATION", "s3://failures/rides/", "failures_location", "s3://failures/rides"),
        ("PREDICTIONS_STREAM_NAME", f"{ARN}/consumer/fast-lane:1712261124", "predictions_stream", ARN),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("LOG_LEVEL", "Warn", "log_level", "WARNING"),
        ("LOG_LEVEL", "FATAL", "log_level", "CRITICAL"),
        ("POWERTOOLS_METRICS_NAMESPACE", "Taxis", "metrics_namespace", "Taxis"),
        ("MLFLOW_EXPERIMENT_ID", "7", "model.experiment_id", "7"),
        ("PREDICTION_FIELD", " tip_amount", "model.prediction_field", "tip_amount"),
        ("TIME_ZONE", " Asia/Kolkata\n", "model.time_zone", "Asia/Kolkata"),
        ("TIME_ZONE", "UTC", "model.time_zone", "UTC"),
        ("TIME_ZONE", "Etc/GMT+12", "model.time_zone", "Etc/GMT+12"),
        ("TIME_ZONE", "", "model.time_zone", "America/New_York"),
    ],
)
def test_values_are_read_as_people_write_them(name: str, value: str, field: str, expected: str) -> None:
    """Surrounding spaces, capitals and a last slash make no difference."""
    assert operator.attrgetter(field)(StreamSettings.from_environment({**MINIMUM, name: value})) == expected


def test_a_location_may_be_tagged_with_a_run() -> None:
    """RUN_ID beside MODEL_LOCATION is the version and does not contradict it."""
    assert ModelSettings.from_environment({**MINIMUM, "RUN_ID": "abc"}).run_id == "abc"


def test_a_dry_run_needs_no_stream() -> None:
    """A dry run writes nothing."""
    assert StreamSettings.from_environment({"TEST_RUN": "True", "MODEL_LOCATION": "model"}).dry_run


@pytest.mark.parametrize(
    ("value", "expected"), [("True", True), ("true", True), ("1", True), ("False", False), ("0", False), ("", False)]
)
def test_test_run_is_read_as_people_write_it(value: str, expected: bool) -> None:
    """``TEST_RUN=False`` does not mean True."""
    assert StreamSettings.from_environment({**MINIMUM, "TEST_RUN": value}).dry_run is expected


def test_an_empty_variable_counts_as_not_set() -> None:
    """A template passes on parameters that were left empty."""
    empty = dict.fromkeys(
        ["MODEL_BUCKET", "RUN_ID", "MODEL_SHA256", "FAILURES_LOCATION", "LOG_LEVEL", "MODEL_NAME", "PREDICTION_FIELD"],
        "",
    )
    assert StreamSettings.from_environment({**MINIMUM, **empty}) == StreamSettings.from_environment(MINIMUM)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        pytest.param({"MODEL_LOCATION": "model"}, "PREDICTIONS_STREAM_NAME", id="no stream"),
        pytest.param({"PREDICTIONS_STREAM_NAME": "s"}, "MODEL_LOCATION", id="no model"),
        pytest.param({**MINIMUM, **RUN}, "MODEL_LOCATION and MODEL_BUCKET", id="two models"),
        pytest.param({**RUN, "RUN_ID": ""}, "RUN_ID", id="bucket without run"),
        pytest.param({**RUN, "MODEL_BUCKET": "s3://models"}, "MODEL_BUCKET", id="bucket as URI"),
        pytest.param({**MINIMUM, "MODEL_LOCATION": "https://models/1"}, "MODEL_LOCATION", id="other scheme"),
        pytest.param({**MINIMUM, "MODEL_LOCATION": "s3://"}, "MODEL_LOCATION", id="no bucket in URI"),
        pytest.param({**MINIMUM, "FAILURES_LOCATION": "failures"}, "FAILURES_LOCATION", id="failures as name"),
        pytest.param({**MINIMUM, "MODEL_SHA256": "abc"}, "MODEL_SHA256", id="short digest"),
        pytest.param({**MINIMUM, "TEST_RUN": "maybe"}, "TEST_RUN", id="neither true nor false"),
        pytest.param({**MINIMUM, "LOG_LEVEL": "LOUD"}, "LOG_LEVEL", id="unknown level"),
        pytest.param({**MINIMUM, "LOG_LEVEL": "DE\nBUG"}, "LOG_LEVEL", id="level of two lines"),
        *(
            pytest.param({**MINIMUM, "PREDICTIONS_STREAM_NAME": name}, "PREDICTIONS_STREAM_NAME", id=f"stream {name!r}")
            for name in NO_STREAMS
        ),
        pytest.param({**MINIMUM, "PREDICTION_FIELD": "ride_id"}, "PREDICTION_FIELD", id="the id's own field"),
        pytest.param({**MINIMUM, "PREDICTION_FIELD": "tip amount"}, "PREDICTION_FIELD", id="not a field's name"),
        *(
            pytest.param({**MINIMUM, "TIME_ZONE": zone}, "TIME_ZONE is a time zone's name", id=f"zone {zone!r}")
            for zone in NO_ZONES
        ),
        pytest.param({**MINIMUM, "MODEL_NAME": "\udcff"}, "MODEL_NAME is text in UTF-8", id="name not in UTF-8"),
        pytest.param({**MINIMUM, "RUN_ID": "\udcff"}, "RUN_ID is text in UTF-8", id="run not in UTF-8"),
    ],
)
def test_a_missing_or_wrong_variable_is_named_in_one_line(environment: dict[str, str], named: str) -> None:
    """The message says which variable to correct."""
    with pytest.raises(SettingsError, match=named) as caught:
        StreamSettings.from_environment(environment)
    assert "\n" not in str(caught.value)


def test_the_signature_of_a_url_is_not_shown() -> None:
    """A presigned URL grants access to whoever sees it."""
    with pytest.raises(SettingsError, match="models/1") as caught:
        ModelSettings.from_environment({"MODEL_LOCATION": "https://models/1?X-Amz-Signature=0123"})
    assert "0123" not in str(caught.value)


class TestWebSettings:
    """The web service has the model's variables, and a few of its own."""

    def test_a_model_is_enough(self) -> None:
        """Everything else has a default."""
        settings = WebSettings.from_environment({"MODEL_LOCATION": "model"})
        model = ModelSettings.from_environment({"MODEL_LOCATION": "model"})
        assert settings == WebSettings(model=model, log_level="INFO", metrics_port=None, drain_seconds=3.0)

    @pytest.mark.parametrize(
        ("name", "value", "field", "expected"),
        [
            ("METRICS_PORT", " 9100 ", "metrics_port", 9100),
            ("METRICS_PORT", "65535", "metrics_port", 65535),
            ("METRICS_PORT", "", "metrics_port", None),
            ("DRAIN_SECONDS", "0", "drain_seconds", 0.0),
            ("DRAIN_SECONDS", "12.5", "drain_seconds", 12.5),
            ("DRAIN_SECONDS", "", "drain_seconds", 3.0),
            ("LOG_LEVEL", "warn", "log_level", "WARNING"),
            ("PREDICTION_FIELD", "tip_amount", "model.prediction_field", "tip_amount"),
            ("MODEL_NAME", "tips", "model.name", "tips"),
        ],
    )
    def test_values_are_read_as_people_write_them(self, name: str, value: str, field: str, expected: object) -> None:
        """An empty variable counts as not set."""
        settings = WebSettings.from_environment({"MODEL_LOCATION": "model", name: value})
        assert operator.attrgetter(field)(settings) == expected

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("METRICS_PORT", port) for port in ("0", "65536", "999999", "-1", "http", "9100.0", "\u0663", "9100\n1")),
            *(("DRAIN_SECONDS", seconds) for seconds in ("-1", "1000", "1e3", ".5", "nan", "inf", "3s", "1,5")),
            *(("PREDICTION_FIELD", taken) for taken in ("ride_id", "model_version", "error")),
            *(("LOG_LEVEL", "LOUD"), ("MODEL_BUCKET", "models"), ("MODEL_LOCATION", "")),
        ],
    )
    def test_a_wrong_variable_is_named_in_one_line(self, name: str, value: str) -> None:
        """The service does not start."""
        with pytest.raises(SettingsError, match=name) as caught:
            WebSettings.from_environment({"MODEL_LOCATION": "model", name: value})
        assert "\n" not in str(caught.value)
