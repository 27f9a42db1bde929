"""Judging windows of streams and of log lines, from the command line."""

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ride_counts import KEY
from scripts.aws.putting import put
from scripts.localaws.faults import Call, FailedEntries
from scripts.localaws.rules import MappingSettings
from scripts.sources.records import RideRecord, aggregate
from streaming import delivery
from streaming.delivery import OutputStream
from tests.builders import copy_saying
from tests.commands.conftest import Refuse, Run
from tests.commands.watching import draw, predict, save_other
from tests.flow import Chaos, Flow
from tests.tools import failed, finish

BATCHES = MappingSettings(report_batch_item_failures=True, batch_size=100)


def consume(flow: Flow, model: str, records: list[RideRecord]) -> None:
    """Put records on the input stream, and let the function predict them."""
    for _ in put(OutputStream(flow.kinesis, flow.input), records):
        pass
    flow.deliver(flow.function(MODEL_LOCATION=model), len(records), BATCHES)


def metrics_of(flow: Flow) -> list[str]:
    """Return the function's lines of metrics."""
    return [json.dumps(line) for line in flow.printed if "_aws" in line]


def test_a_ride_counts_once_on_streams_and_at_each_delivery_in_log_lines(
    flow: Flow, watched: str, chaos: Chaos, drift: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Streams and log lines have the rejected records, and the notes say what was redelivered."""
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 1)
    records = [*draw(300, 7), *aggregate(draw(100, 8)), RideRecord("bad", b"{"), RideRecord("bad", b'{"ride": 1}')]

    def fail_twice(call: Call) -> FailedEntries | None:
        return FailedEntries(frozenset({0 if call.number else 40})) if call.number < 2 else None

    for _ in put(OutputStream(flow.kinesis, flow.input), records):
        pass
    with chaos(fail_twice):
        flow.deliver(flow.function(MODEL_LOCATION=watched), len(records), BATCHES)
    code, found = drift("--rides", flow.input, "--predictions", flow.output, "--since", "1h")
    assert (code, found["verdict"]) == (0, "no drift")
    assert (found["rides"], found["rejected"]) == (400, 2)
    assert "400 of 400 rides have a prediction, and each counts once" in found["notes"]
    # The stream has not accepted the 41st ride at first. Lambda redelivers it and the 59 rides after it.
    assert any("59 predictions repeat an event_id" in note for note in found["notes"])
    log = tmp_path / "log.txt"
    log.write_text("\n".join(metrics_of(flow)))
    code, lines = drift("--logs", str(log))
    assert (lines["rides"], lines["rejected"]) == (460, 2)
    assert any(note.startswith("1 of them left records undelivered: Lambda delivered these") for note in lines["notes"])
    assert lines["model"] == found["model"]


def test_longer_rides_are_drift_with_its_size(flow: Flow, watched: str, drift: Run) -> None:
    """The exit code is 1, and the sentence says about how much longer the rides are."""
    consume(flow, watched, draw(600, 9, factor=1.5))
    code, found = drift("--rides", flow.input, "--predictions", flow.output)
    assert (code, found["verdict"]) == (1, "drift")
    (sentence,) = [one for one in found["sentences"] if one.startswith("distances of the same pairs are")]
    assert 30 < float(sentence.split("are ")[1].split(" %")[0].split("%")[0]) < 70, sentence
    done = finish("drift", "--model", watched, "--rides", flow.input, "--predictions", flow.output)
    assert done.returncode == 1
    assert "Verdict: drift: " in done.stdout
    assert "longer" in done.stdout


def test_actual_values_show_a_slow_zone(flow: Flow, watched: str, drift: Run) -> None:
    """The inputs do not change, so only the errors by zone can show it; without actual values there is no drift."""
    records = draw(600, 10)
    consume(flow, watched, records)
    streams = ("--rides", flow.input, "--predictions", flow.output)
    assert drift(*streams)[0] == 0
    events = [record.event for record in records if record.event]
    zones = [event.ride.PULocationID for event in events]
    slow = max(set(zones), key=zones.count)
    values = predict([event.ride for event in events]).tolist()
    flow.kinesis.create_stream(StreamName=f"{flow.input}-actual", ShardCount=1)
    late = [
        {"ride_id": event.ride_id, "ride_duration": min(60.0, value * (2 if event.ride.PULocationID == slow else 1))}
        for event, value in zip(events, values, strict=True)
    ]
    actuals = [RideRecord(str(number), json.dumps(one).encode()) for number, one in enumerate(late)]
    for _ in put(OutputStream(flow.kinesis, f"{flow.input}-actual"), actuals):
        pass
    code, found = drift(*streams, "--actual", f"{flow.input}-actual")
    assert code == 1
    worst = found["errors"][0]
    assert (worst["name"], worst["zone"]) == ("pickup_zone", slow)
    assert f"rides from zone {slow} take" in found["sentences"][0]
    assert "600 of the predicted rides have an actual value" in " ".join(found["notes"])
    assert found["check"]["estimate"]["rides"] > 0


@pytest.fixture
def lines(flow: Flow, watched: str) -> list[str]:
    """Give lines of metrics of some batches."""
    consume(flow, watched, draw(300, 11))
    return metrics_of(flow)


def tail(lines: list[str]) -> bytes:
    """Write lines as ``aws logs tail`` does, among others."""
    prefix = "2026-11-28T22:41:51.123000+00:00 2026/11/28/[$LATEST]0f3c{x} "
    others = ["START RequestId: 1 Version: $LATEST", '{"message": "batch done", "rides": 3}', "REPORT RequestId: 1"]
    return "\n".join(prefix + line for line in [*others, *lines, *others]).encode()


def tail_as_json(lines: list[str]) -> bytes:
    """Write lines as ``aws logs tail --format json`` does."""
    return "".join(f"2026-11-28T22:41:51 0f3c {json.dumps(json.loads(line), indent=4)}\n" for line in lines).encode()


def filter_events(lines: list[str]) -> bytes:
    """Write lines as ``aws logs filter-log-events`` does."""
    events = [{"logStreamName": "0f3c", "timestamp": 1, "message": f"{line}\n", "eventId": "1"} for line in lines]
    return json.dumps({"events": events, "searchedLogStreams": []}, indent=4).encode()


def query_messages(lines: list[str]) -> bytes:
    """Write lines as ``aws logs filter-log-events --query 'events[].message'`` does."""
    return json.dumps([f"{line}\n" for line in lines], indent=4).encode()


def filter_as_text(lines: list[str]) -> bytes:
    """Write lines as ``aws logs filter-log-events --output text`` does, and with the query above."""
    events = "".join(f"EVENTS\t1\t2\t0f3c\t{line}\t3\n" for line in lines[1:])
    return f"{lines[0]}\tSTART RequestId: 1 \t\n{events}".encode()


def query_insights(lines: list[str]) -> bytes:
    """Write lines as ``aws logs get-query-results`` does."""
    return json.dumps({"results": [[{"field": "@message", "value": line}] for line in lines]}, indent=4).encode()


def export(lines: list[str]) -> bytes:
    """Write lines as CloudWatch exports them to S3."""
    return gzip.compress("".join(f"2026-11-28T22:41:51.123Z {line}\n" for line in lines).encode())


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *((tail, "log.txt"), (tail_as_json, "log.txt"), (filter_events, "log.json"), (query_messages, "log.json")),
        *((filter_as_text, "log.txt"), (query_insights, "log.json"), (export, "000000.gz"), (tail, "-")),
    ],
    ids=["tail", "tail-as-json", "filter-log-events", "query", "text", "insights", "export", "stdin"],
)
def test_log_lines_are_found_in_every_form_that_people_have(
    form: Callable[[list[str]], bytes], name: str, lines: list[str], drift: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    """The counts of all lines add up, whatever stands before and between them; a file named twice counts once."""
    (tmp_path / name).write_bytes(form(lines))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(form(lines))))
    code, found = drift("--logs", *[name if name == "-" else str(tmp_path / name)] * 2)
    assert (code, found["rides"]) == (0, 300)
    assert f"{len(lines)} lines of metrics are added up" in found["notes"]


def test_counts_of_other_baselines_are_refused_or_named(
    lines: list[str], watched: str, drift: Run, refuse_drift: Refuse, tmp_path: Path
) -> None:
    """After a deployment, a log has lines of two models. Cut lines are named too."""
    log, other = tmp_path / "log.txt", save_other(watched, tmp_path / "other")
    log.write_text("\n".join(lines))
    assert "name the model that counted them with --model" in refuse_drift("--logs", str(log), model=other)
    foreign = json.dumps(json.loads(lines[0]) | {KEY: {"baseline": "f" * 16, "rides": 5}})
    log.write_text("\n".join([*lines, foreign, lines[0][:-20]]))
    notes = drift("--logs", str(log))[1]["notes"]
    assert f"1 counts of other baselines are left out: {'f' * 16}" in notes
    assert any(note.startswith("1 lines have RideCounts and are not JSON") for note in notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda counts: counts | {"pickup_zone": counts["pickup_zone"][:-1]},
        lambda counts: counts | {"pickup_zone": [-1, *counts["pickup_zone"][1:]]},
        lambda counts: counts | {"another": [1]},
        lambda _: {},
    ],
    ids=["short", "negative", "another", "none"],
)
def test_counts_that_do_not_fit_their_baseline_are_refused_or_named(
    change: Callable[[dict[str, list[int]]], dict[str, list[int]]],
    lines: list[str],
    drift: Run,
    refuse_drift: Refuse,
    tmp_path: Path,
) -> None:
    """A damaged line is left out, and never added to the others."""
    log, line = tmp_path / "log.txt", json.loads(lines[0])
    line[KEY]["counts"] = change(line[KEY]["counts"])
    log.write_text(json.dumps(line))
    assert "the counts do not fit the bins of their baseline" in refuse_drift("--logs", str(log))
    log.write_text("\n".join([*lines, json.dumps(line)]))
    code, found = drift("--logs", str(log))
    assert (code, found["rides"]) == (0, 300)
    assert "1 counts do not fit the bins of their baseline: they are left out" in found["notes"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.gz", gzip.compress(b"x" * 1_000)[:-12], "Compressed file ended"),
        ("text.gz", b"no gzip", "Not a gzipped file"),
        ("damaged.gz", gzip.compress(b"")[:10] + b"\xff" * 20, "invalid block type"),
        ("cut.txt", f'{{"{KEY}": {{'.encode(), f"1 lines have {KEY} and are not JSON"),
    ],
    ids=["cut-gzip", "not-gzip", "damaged-gzip", "cut-line"],
)
def test_a_damaged_log_is_one_line(
    name: str, content: bytes, message: str, refuse_drift: Refuse, tmp_path: Path
) -> None:
    """The error says what is wrong with the file."""
    (tmp_path / name).write_bytes(content)
    assert message in refuse_drift("--logs", str(tmp_path / name))


def test_few_rides_are_a_verdict_of_their_own(drift: Run, lines: list[str], tmp_path: Path) -> None:
    """The exit code is 0, because there is no drift to act on."""
    log = tmp_path / "log.txt"
    log.write_text(lines[0])
    code, found = drift("--logs", str(log))
    assert (code, found["verdict"], found["tests"]) == (0, "too few rides", [])
    assert found["reason"].endswith("rides are too few: a verdict needs 250")


def test_an_error_is_one_line(flow: Flow, watched: str, refuse_drift: Refuse, tmp_path: Path) -> None:
    """The line says what to do. stdout is empty, and the exit code is 1."""
    without = copy_saying({}, tmp_path / "without")
    done = finish("drift", "--logs", "-", "--model", without)
    assert "train it again with ./scripts/train" in failed(done)
    (tmp_path / "empty.txt").write_text('{"_aws": {}}\n')
    assert f"no line has {KEY}" in refuse_drift("--logs", str(tmp_path / "empty.txt"))
    assert "cannot be read: No such file" in refuse_drift("--logs", str(tmp_path / "none.txt"))
    streams = ("--rides", flow.input, "--predictions", flow.output)
    assert f"{flow.input} has no ride in this time" in refuse_drift(*streams)
    for _ in put(OutputStream(flow.kinesis, flow.input), draw(3, 12)):
        pass
    assert "has no prediction of the version" in refuse_drift(*streams)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --rides, --logs, --metrics, --outputs, --trial"),
        (("--logs", "a", "--rides", "b"), "give one of"),
        (("--logs", "a", "--actual", "b"), "--actual needs --rides"),
        (("--logs", "a", "--since", "1h"), "--since and --until are for --rides"),
        (("--trial", "a", "--report", "b"), "--report shows a window, and --trial judges many"),
        (("--metrics", "a", "b", "c"), "--metrics takes one text, or two"),
        (("--rides", "a", "--evidently", "b"), "--evidently and --reference go together"),
        (("--logs", "a", "--evidently", "b", "--reference", "c"), "--evidently needs the rows of --rides or --outputs"),
    ],
    ids=["none", "two", "actual", "since", "trial-report", "three", "no-reference", "no-rows"],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...], message: str, drift: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command refuses them before it reads anything."""
    with pytest.raises(SystemExit) as raised:
        drift(*arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_the_counts_of_parts_add_up_to_those_of_the_whole(
    lines: list[str], watched: str, drift: Run, tmp_path: Path
) -> None:
    """Two files in any order are the same window as one file with all lines."""
    one, two, both = (tmp_path / name for name in ("1.txt", "2.txt", "both.txt"))
    one.write_text("\n".join(lines[:1]))
    two.write_text("\n".join(lines[1:]))
    both.write_text("\n".join(lines))
    found = [drift("--logs", *map(str, names))[1] for names in ([one, two], [two, one], [both])]
    assert found[0]["tests"] == found[1]["tests"] == found[2]["tests"] != []
