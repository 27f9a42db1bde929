"""The replay command: its options, its table, and what it says of records that cannot be replayed."""

import argparse
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from scripts.aws.replaying import ReplayFilter, ReplayPlan
from scripts.commands.replay import show, since
from tests.builders import SHARD
from tests.commands.conftest import ARRIVAL, ON_FAILURE, REJECTIONS, REPLAYED, Bucket, discarded, kept, rejection
from tests.tools import failed, finish


def run(failures: Bucket, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command for the bucket and its stream."""
    location = f"s3://{failures.name}/rejections"
    return finish("replay", "--stream", failures.stream, "--failures", location, *options)


def test_since_takes_a_date_a_time_or_a_duration() -> None:
    """Times are local unless they have an offset."""
    assert since("2026-02-03T04:05:06Z") == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert since("2026-02-03T04:05+02:00") == datetime(2026, 2, 3, 2, 5, tzinfo=UTC)
    assert since("2026-02-03") == datetime(2026, 2, 3).astimezone()
    for text, ago in (("90m", timedelta(minutes=90)), ("24h", timedelta(hours=24)), ("7d", timedelta(days=7))):
        before = datetime.now(UTC)
        assert before <= since(text) + ago <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["yesterday", "7", "7w", "-7d", "2026-02-30", "9999999999d"])
def test_since_refuses_other_texts(text: str) -> None:
    """The message has the text."""
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        since(text)


UNREADABLE = [
    pytest.param(f"{REJECTIONS}/1-1.jsonl", rejection(1) + b'{"kind"', id="a broken line"),
    pytest.param(f"{REJECTIONS}/1-1.jsonl", b'{"kind": "json", "reason": "no data"}\n', id="no data"),
    pytest.param(f"{REJECTIONS}/1-1.jsonl", rejection(1).replace(b"key-1", b"\xff"), id="no UTF-8"),
    pytest.param(f"{REJECTIONS}/1-1.jsonl", b"[" * 100_000, id="nested too deeply"),
    pytest.param(ON_FAILURE, b"", id="an empty object"),
    pytest.param(ON_FAILURE, b'{"requestContext": {"condition": "a"}}', id="no payload"),
    pytest.param(ON_FAILURE, discarded(b"{").replace(b"Records", b"Messages"), id="no records"),
    pytest.param(ON_FAILURE, discarded(b"{").replace(b"sequenceNumber", b"n"), id="not a record"),
]


@pytest.mark.parametrize(("key", "body"), UNREADABLE)
def test_an_unreadable_object_stays(failures: Bucket, caplog: pytest.LogCaptureFixture, key: str, body: bytes) -> None:
    """It is shown, and stops nothing else."""
    failures.write({key: body})
    failures.keep(**{"2-2": rejection(2)})
    plan = failures.plan()
    assert not plan.complete
    kinds = sorted((kind, group.objects) for (_, kind, _), group in plan.groups.items())
    assert kinds == [("cannot be read", 1), ("json", 1)]
    assert f"s3://{failures.name}/{key} stays as it is" in caplog.text
    assert failures.replay(plan=plan) == 1
    assert failures.content()[key] == body


def test_an_archived_object_stays(failures: Bucket) -> None:
    """It does not stop the others."""
    failures.write({f"{REJECTIONS}/1-1.jsonl": rejection(1)}, StorageClass="GLACIER")
    failures.keep(**{"2-2": rejection(2)})
    plan = failures.plan()
    assert plan.groups["", "cannot be read", "it is archived: restore it first"].objects == 1
    assert failures.replay(plan=plan) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (rejection(1, "eyJ*"), "the data is not base64"),
        (rejection(1, b"x" * 1_048_572), "data and partition key are more than 1 MiB"),
        (rejection(1, partition_key="x" * 257), "Kinesis refuses its partition key of 257 characters"),
        (rejection(1, partition_key="\U0001f600" * 200), "Kinesis refuses its partition key of 200 characters"),
        (rejection(1, "not text: null", kind="base64"), "the data is not base64"),
    ],
    ids=["not base64", "too large", "long key", "long key in UTF-16", "not text"],
)
def test_a_record_that_no_stream_accepts_stays(
    failures: Bucket, caplog: pytest.LogCaptureFixture, line: bytes, reason: str
) -> None:
    """The others of its object are replayed, one of the largest size among them."""
    failures.keep(**{"1-2": line + rejection(2, b"x" * 1_048_571)})
    plan = failures.plan()
    assert not plan.complete
    assert plan.groups["ride_events", "cannot be put", reason].records == 1
    assert reason in caplog.text
    assert failures.replay(plan=plan) == 1
    assert failures.content()[f"{REJECTIONS}/1-2.jsonl"] == line
    assert [key for key, _ in failures.on_stream()] == ["key-2"]


def test_an_object_stays_if_the_replayed_one_is_broken(failures: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    """The broken object is not overwritten."""
    failures.keep(**{"1-1": rejection(1)})
    failures.write({f"{REPLAYED}/1-1.jsonl": b"{"})
    before = failures.content()
    plan = failures.plan()
    failures.replay(plan=plan)
    assert not plan.complete
    assert f"what was moved to s3://{failures.name}/{REPLAYED}/" in caplog.text
    assert failures.content() == before


def test_a_dry_run_shows_the_table_and_changes_nothing(failures: Bucket) -> None:
    """The largest group comes first; nothing in a reason can act on the terminal."""
    failures.keep(a=rejection(1) + rejection(2, kind="ride", reason="[no] \x1b[2J"), b=rejection(3))
    failures.write({ON_FAILURE: discarded(*[b"{"] * 3, arrivals=(ARRIVAL, 0, ARRIVAL))})
    before = failures.content()
    location = f"s3://{failures.name}/rejections"
    options = ("replay", "--dry-run", "--stream", failures.stream)
    done = finish(*options, FAILURES_LOCATION=location, TZ="UTC", COLUMNS="120")
    assert done.returncode == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert rows == [
        ["ride_events", "discarded", "RetryAttemptsExhausted", "3", "1", "1970-01-01 00:00:00"],
        ["ride_events", "json", "Input data was truncated", "2", "2", "2026-02-02 02:40:00"],
        ["ride_events", "ride", r"[no] \x1b[2J", "1", "1", "2026-02-02 02:40:00"],
    ]
    assert failures.content() == before
    assert failures.on_stream() == []


def test_options_select_the_records(failures: Bucket) -> None:
    """The last line says how many were put; to select none is no error."""
    failures.keep(a=rejection(1) + rejection(2, kind="ride") + rejection(3, kind="ride", arrival=0))
    done = run(failures, "--reason", "RIDE", "--since", "2026-01-01")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"put 1 records on {failures.stream}")
    assert failures.on_stream() == [("key-2", b"{")]
    done = run(failures, "--reason", "no such")
    nothing = f"nothing to replay: s3://{failures.name}/rejections keeps no record"
    assert (done.returncode, done.stdout) == (0, f"{nothing} that the options select\n")


def test_from_leaves_the_records_of_other_streams_alone(failures: Bucket) -> None:
    """Several streams may share a bucket, whatever their prefixes: AWS fixes where mappings write."""
    failures.keep(a=rejection(1))
    invoices = discarded(b"[]").replace(b"ride_events", b"invoices")
    failures.write({f"rejections/invoices/{SHARD}/2-2.jsonl": rejection(2), ON_FAILURE: invoices})
    assert run(failures, "--from", "ride_events").stdout.splitlines()[-1] == f"put 1 records on {failures.stream}"
    assert failures.on_stream() == [("key-1", b"{")]


def test_the_exit_code_is_1_if_something_selected_stays(failures: Bucket) -> None:
    """Everything else is put first."""
    failures.keep(a=b"{", b=rejection(1))
    done = run(failures)
    assert done.returncode == 1
    assert f"{REJECTIONS}/a.jsonl stays as it is: line 1 is not what it should be" in done.stderr
    assert failures.on_stream() == [("key-1", b"{")]


def test_the_table_has_the_largest_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """A line says how many more there are."""
    plan = ReplayPlan(ReplayFilter())
    for number in range(23):
        plan.add("key", [kept("ride", f"reason {number:02}")])
    show(plan, Console(width=120))
    text = capsys.readouterr().out
    assert "reason 19" in text
    assert "reason 20" not in text
    assert text.splitlines()[-1] == "... and 3 more"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no failures location is known: name it with --failures, or set FAILURES_LOCATION"),
        (("--failures", "s3://a", "--stream", "none"), "there is no stream none in us-east-1 at"),
        (("--failures", "s3://no-such-bucket"), "there is no bucket no-such-bucket at http"),
    ],
)
def test_an_error_is_one_line(failures: Bucket, options: tuple[str, ...], message: str) -> None:
    """It says what to do."""
    line = failed(finish("replay", "--stream", failures.stream, *options, FAILURES_LOCATION=""))
    assert line.startswith(f"replay: {message}")


def test_a_location_that_is_not_a_uri_is_refused() -> None:
    """AWS is not asked for anything."""
    done = finish("replay", FAILURES_LOCATION="bucket/prefix")
    assert done.returncode == 2
    assert "bucket/prefix is not an s3://bucket/prefix URI" in done.stderr
