"""Streams by name, by ARN and by a consumer's ARN."""

import pytest

from arns import UNKNOWN, StreamId, parse_stream, stream_name, stream_parameter

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/ride_events"
CHINA = "arn:aws-cn:kinesis:cn-north-1:000000000000:stream/ride.events-2"
CONSUMER = "/consumer/fast-lane:1712261124"


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        ("ride_events", StreamId("ride_events", None, None)),
        (ARN, StreamId("ride_events", ARN, "us-east-1")),
        (ARN + CONSUMER, StreamId("ride_events", ARN, "us-east-1")),
        (CHINA + CONSUMER, StreamId("ride.events-2", CHINA, "cn-north-1")),
        (f"{ARN[:-11]}consumer{CONSUMER}", StreamId("consumer", f"{ARN[:-11]}consumer", "us-east-1")),
        (f"{ARN}\n", None),
        (f"{ARN}/consumer/fast-lane", None),
        ("arn:aws:sqs:us-east-1:000000000000:ride_events", None),
        ("", None),
    ],
)
def test_a_stream_is_taken_out_of_its_arn(text: str, stream: StreamId | None) -> None:
    """A consumer's ARN, as the events of enhanced fan-out have it, names its stream too."""
    assert parse_stream(text) == stream


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        (CHINA + CONSUMER, "ride.events-2"),
        ("arn:aws:kinesis:somewhere:me:stream/ride_events", "ride_events"),
        ("arn:aws:kinesis:somewhere:me:stream/ride_events/consumer/fast", "ride_events"),
        ("a stream/of mine", UNKNOWN),
        ("../\x1b[2J", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_malformed_arn_gives_a_name_too(arn: str, name: str) -> None:
    """The name can always be part of an object's key."""
    assert stream_name(arn) == name


def test_a_request_names_a_stream_as_the_setting_does() -> None:
    """Only an ARN reaches a stream of another account."""
    assert stream_parameter("ride_events") == {"StreamName": "ride_events"}
    assert stream_parameter(ARN + CONSUMER) == {"StreamARN": ARN}
