"""The rides that commands put on a stream: generated rides, JSON documents, trip records, and bad rides among them."""

import argparse
import codecs
import io
import json
import statistics
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rides import decode_ride
from scripts.cli import MAX_SEED, CommandError
from scripts.sources import chosen as chosen_module
from scripts.sources.bad import FAULTS, with_bad_rides
from scripts.sources.chosen import RideSource, read_json_rides, read_tlc_rides
from scripts.sources.records import RideRecord
from scripts.sources.synthetic import PAIRS, generate_events, generate_rides
from streaming.records import decode_event
from tests.builders import kinesis_event
from tests.trip_records import trip, write

LINE = b'{"ride": {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}, "ride_id": 256}'


def chosen(*arguments: str, seed: int = 0) -> RideSource:
    """Return the rides that a command line asks for."""
    parser = argparse.ArgumentParser()
    chosen_module.add_options(parser, documents=True)
    return chosen_module.rides_from_options(parser.parse_args(arguments), seed)


def rejected(records: list[RideRecord]) -> int:
    """Count the records that the function rejects."""
    _, rejections = decode_event(kinesis_event(*(record.data for record in records)))
    return len(rejections)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Write a ride and a line that is JSON but not a ride, with a blank line between."""
    path = tmp_path / "rides.jsonl"
    path.write_bytes(LINE + b'\n\n{"nonsense": 1}\r\n')
    return path


def test_generated_rides_are_good_and_keyed_by_their_id() -> None:
    """A seed always gives the same rides, and a longer list begins with the shorter one."""
    records = generate_rides(200, seed=3)
    assert rejected(records) == 0
    assert all(str(decode_ride(record.data).ride_id) == record.partition_key for record in records)
    assert generate_rides(20, seed=3) == records[:20] != generate_rides(20, seed=4)


def test_generated_ids_are_of_both_types_and_never_meet() -> None:
    """No id occurs twice, within a seed or between seeds."""
    ids = [event.ride_id for seed in (0, 1, 2, MAX_SEED) for event in generate_events(100, seed)]
    assert len(set(map(str, ids))) == 400
    assert Counter(map(type, ids)) == {int: 200, str: 200}
    # Readers whose numbers are all doubles round larger ones.
    assert max(number for number in ids if isinstance(number, int)) < 2**53


def test_generated_rides_look_like_those_they_were_measured_on() -> None:
    """Half of January's trips were between 1.2 and 3.3 miles, and few began in the small hours."""
    generated = [event.ride for event in generate_events(5000, seed=0)]
    low, _, high = statistics.quantiles((ride.trip_distance for ride in generated), n=4)
    assert 1.0 < low < 1.4
    assert 2.8 < high < 3.8
    assert {(ride.PULocationID, ride.DOLocationID) for ride in generated} == set(PAIRS)
    hours = Counter(ride.pickup_datetime.hour for ride in generated if ride.pickup_datetime)
    assert sum(hours[hour] for hour in range(6)) < sum(hours[hour] for hour in (15, 16, 17, 18)) / 4


def test_documents_have_their_ride_id_or_else_their_digest_as_key(lines: Path) -> None:
    """A digest puts the same document on the same shard again."""
    good, bad = read_json_rides(str(lines))
    assert (good.partition_key, good.data) == ("256", LINE)
    assert bad.data == b'{"nonsense": 1}'
    assert len(bad.partition_key) == 64
    assert read_json_rides(str(lines))[1] == bad


@pytest.mark.parametrize("ride_id", ["null", "true", '""', '"' + "x" * 257 + '"', "1.5", "9" * 300])
def test_an_id_that_cannot_be_a_key_gives_way_to_the_digest(tmp_path: Path, ride_id: str) -> None:
    """PutRecords would refuse it, and all of its request."""
    path = tmp_path / "ride.json"
    path.write_text(f'{{"ride_id": {ride_id}}}')
    assert len(read_json_rides(str(path))[0].partition_key) == 64


def test_lines_come_from_stdin_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash stands for it."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(LINE + b"\n" + LINE)))
    assert [record.partition_key for record in read_json_rides("-")] == ["256", "256"]


SECOND = '{"ride":{"PULocationID":43,"DOLocationID":151,"trip_distance":1.80},"ride_id":98765432109876543210}'
UMLAUT = '{"ride_id": "Müßig 🚕"}'
PRETTY = json.dumps(json.loads(LINE), indent=4)
NAN = '{"ride": {"PULocationID": 130, "DOLocationID": 205, "trip_distance": NaN}, "ride_id": 7}'


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-16 big, with BOM", "utf-32"]
)
@pytest.mark.parametrize(
    ("text", "documents"),
    [
        pytest.param(PRETTY, [PRETTY], id="one, pretty"),
        pytest.param(f"{SECOND}\n{UMLAUT}\n", [SECOND, UMLAUT], id="lines"),
        pytest.param(f"\r\n{SECOND}\r\n\r\n{UMLAUT}\r\n", [SECOND, UMLAUT], id="lines of Windows"),
        pytest.param(f"{PRETTY}\n{PRETTY}", [PRETTY, PRETTY], id="several, pretty"),
        pytest.param(f"{SECOND}{PRETTY} {UMLAUT}", [SECOND, PRETTY, UMLAUT], id="one after another"),
        pytest.param(f"{SECOND}\n\ufeff{UMLAUT}\n", [SECOND, UMLAUT], id="two files joined, each with a BOM"),
        pytest.param(f"[{SECOND},{UMLAUT}]", [SECOND, UMLAUT], id="an array"),
        pytest.param(f"[\n  {PRETTY}\n,{PRETTY}\n, null ]\n", [PRETTY, PRETTY, "null"], id="an array, pretty"),
        pytest.param(f"[{SECOND}]\n[]\n[ ]\n[{UMLAUT}, [1]]\n", [SECOND, UMLAUT, "[1]"], id="arrays in lines"),
        pytest.param(f"[{NAN}, {SECOND}]\n{NAN}", [NAN, SECOND, NAN], id="NaN, as Python writes it"),
        pytest.param('{"a": Infinity}\n{"a": -Infinity}', ['{"a": Infinity}', '{"a": -Infinity}'], id="infinity"),
        pytest.param('null\n"text"\n1.50\n', ["null", '"text"', "1.50"], id="lines that are no ride"),
        pytest.param("[1, 2]\n[[{}], 3]", ["[1, 2]", "[[{}], 3]"], id="arrays without an object"),
        pytest.param('{"a": 1, "a": 2}', ['{"a": 1, "a": 2}'], id="a name twice"),
        pytest.param(f'{{"a": {"9" * 5000}}}', [f'{{"a": {"9" * 5000}}}'], id="a huge number"),
        pytest.param(r'{"ride_id": "\ud800"}', [r'{"ride_id": "\ud800"}'], id="half a character, escaped"),
    ],
)
def test_every_json_document_is_a_record_as_it_was_written(
    tmp_path: Path, text: str, documents: list[str], encoding: str
) -> None:
    """Only the encoding changes, to UTF-8. The consumer decides whether a document is a ride."""
    big = "\ufeff".encode("utf-16-be") + text.encode("utf-16-be")
    path = tmp_path / "rides.json"
    path.write_bytes(big if encoding.startswith("utf-16 big") else text.encode(encoding))
    assert [record.data.decode() for record in read_json_rides(str(path))] == documents
    assert read_json_rides(str(path), raw=True) == read_json_rides(str(path))


@pytest.mark.parametrize(
    ("content", "place", "lines"),
    [
        pytest.param(b"# Title\n\nText\n", "line 1, column 1", 2, id="text"),
        pytest.param(b"2023-02-01,130,205\n", "line 1, column 5", 1, id="CSV"),
        pytest.param(b"130 205 3.66\n", "line 1, column 4", 1, id="numbers in a line"),
        pytest.param(b"null null", "line 1, column 5", 1, id="null twice in a line"),
        pytest.param(LINE + b"\n" + LINE[:-9] + b"\n", "line 2, column 83", 2, id="cut off in a line"),
        pytest.param(PRETTY[:-3].encode(), "line 7, column 18", 7, id="cut off, pretty"),
        pytest.param(LINE + b" the end", "line 1, column 93", 1, id="text after a document"),
        pytest.param(LINE + b" 1", "line 1, column 93", 1, id="a number after a document"),
        pytest.param(LINE + b",\n" + LINE, "line 1, column 92", 2, id="commas without an array"),
        pytest.param(b"[" + LINE + b",]", "line 1, column 9[34]", 1, id="a comma at an array's end"),
        pytest.param(b"[" + LINE, "line 1, column 93", 1, id="an array without an end"),
        pytest.param(LINE + b'\n{"ride_id": \xff', "line 2, column 13", 2, id="not UTF-8"),
        pytest.param(codecs.BOM_UTF8 + b"[\xff]", "line 1, column 2", 1, id="not UTF-8 after a BOM"),
        pytest.param(b'{"ride_id": "\xed\xa0\x80"}', "line 1, column 14", 1, id="half a character"),
        pytest.param('{"a":\n"x"}'.encode("utf-16")[:-1], "line 2, column 4", 2, id="UTF-16 cut off"),
        pytest.param(LINE + b"\x00", "line 1, column 92", 1, id="NUL after a document"),
        pytest.param(bytes(8), "line 1, column 1", 1, id="NULs"),
        pytest.param(b'{"a": "\x00"}', "line 1, column 8", 1, id="NUL in a text"),
        pytest.param(LINE + b"\n" + b"[" * 100_000 + b"]" * 100_000, "line 2, column 1", 2, id="nested too deeply"),
    ],
)
def test_a_file_that_is_not_json_is_refused_unless_its_lines_are_wanted(
    tmp_path: Path, content: bytes, place: str, lines: int
) -> None:
    """The message has the line and column, which differ between Python versions in one case, and names ``--raw``."""
    path = tmp_path / "rides.json"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=rf"rides\.json, {place}: this is not JSON \(.*\), so .* with --raw$"):
        read_json_rides(str(path))
    records = read_json_rides(str(path), raw=True)
    assert len(records) == lines
    assert [record.data for record in records] == [line.strip() for line in content.split(b"\n") if line.strip()]


def test_nan_is_put_and_the_function_rejects_the_ride(tmp_path: Path) -> None:
    """The reason names the field that has NaN."""
    path = tmp_path / "rides.json"
    path.write_text(f"{NAN}\n{PRETTY}")
    records = read_json_rides(str(path))
    received, (rejection,) = decode_event(kinesis_event(*(record.data for record in records)))
    assert len(received) == 1
    assert "$.ride.trip_distance" in rejection.reason


def test_a_line_that_no_stream_accepts_is_refused(tmp_path: Path) -> None:
    """The message says how large it is."""
    path = tmp_path / "large.jsonl"
    path.write_bytes(LINE + b'\n"' + b"x" * 1_048_576 + b'"')
    with pytest.raises(CommandError, match="1048578 bytes"):
        read_json_rides(str(path))


def test_trip_records_are_keyed_by_month_and_row(tmp_path: Path) -> None:
    """Rows outside the contract are counted."""
    path = write(tmp_path / "green_tripdata_2023-02.parquet", [trip(), trip(trip_distance=120098.8), trip()])
    source = read_tlc_rides(str(path))
    assert [record.partition_key for record in source.records] == ["2023/02_0", "2023/02_2"]
    assert source.left_out == 1
    assert rejected(source.records) == 0


def test_a_number_of_rides_takes_the_first(tmp_path: Path, lines: Path) -> None:
    """Without a number, all rides of a file are taken, and 25 are generated, which fit on a screen."""
    assert chosen(seed=5) == RideSource(generate_rides(25, seed=5))
    path = str(write(tmp_path / "trips.parquet", [trip()] * 4))
    assert len(chosen("--data", path).records) == 4
    assert len(chosen("--data", path, "--rides", "3").records) == 3
    assert len(chosen("--json", str(lines), "--rides", "1").records) == 1


def test_a_file_without_rides_is_refused(tmp_path: Path) -> None:
    """The command would have nothing to wait for."""
    empty = tmp_path / "empty.jsonl"
    for content in ("", "\n \r\n", "\ufeff", "[]"):
        empty.write_text(content)
        with pytest.raises(CommandError, match=r"no ride in .*empty\.jsonl"):
            chosen("--json", str(empty))


def test_a_closed_stdin_has_no_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sys.stdin`` is None if the shell closed stdin."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CommandError, match="no ride in stdin"):
        chosen("--json", "-")


def test_raw_lines_need_a_file() -> None:
    """``--raw`` is refused without ``--json``."""
    with pytest.raises(CommandError, match="--json"):
        chosen("--raw")


@pytest.mark.parametrize(("percent", "bad"), [(0, 0), (0.1, 1), (5, 15), (33.4, 101), (100, 300)])
def test_a_percentage_of_the_rides_goes_bad(percent: float, bad: int) -> None:
    """It is rounded up, so whoever asks for bad rides gets some."""
    records = generate_rides(300, seed=0)
    result = with_bad_rides(records, percent, seed=0)
    assert rejected(result) == bad
    assert sum(before != after for before, after in zip(records, result, strict=True)) == bad


@pytest.mark.parametrize("fault", FAULTS)
def test_the_function_rejects_every_kind_of_bad_ride(fault: str) -> None:
    """A fault that the function accepts would be none."""
    records = [RideRecord("256", FAULTS[fault](msgspec.to_builtins(event))) for event in generate_events(4, seed=0)]
    assert rejected(records) == 4


def test_all_faults_take_turns() -> None:
    """If there are as many bad rides as faults, each fault occurs."""
    records = generate_rides(len(FAULTS), seed=0)
    results = {record.data for record in with_bad_rides(records, 100, seed=0)}
    assert b"" in results
    kinds = Counter(rejection.kind for rejection in decode_event(kinesis_event(*results))[1])
    assert set(kinds) == {"utf-8", "json", "ride"}


def test_a_bad_ride_keeps_its_key_and_depends_on_the_seed() -> None:
    """A run can be repeated, and its rides can be told apart."""
    records = generate_rides(50, seed=0)
    result = with_bad_rides(records, 20, seed=7)
    assert [record.partition_key for record in result] == [record.partition_key for record in records]
    assert result == with_bad_rides(records, 20, seed=7)
    assert result != with_bad_rides(records, 20, seed=8)


def test_rides_that_are_bad_already_do_not_change(lines: Path) -> None:
    """Only one of the two documents can go bad."""
    good, bad = with_bad_rides(read_json_rides(str(lines)), 100, seed=0)
    assert good.data != LINE
    assert bad.data == b'{"nonsense": 1}'
