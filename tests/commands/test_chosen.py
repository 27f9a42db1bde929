"""The rides that commands put on a stream: generated rides, JSON lines, trip records, and bad rides among them."""

import argparse
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
from scripts.sources.synthetic import PAIRS, TimedRide, generate_events, generate_rides
from streaming.records import decode_event
from tests.builders import kinesis_event
from tests.trip_records import trip, write

LINE = b'{"ride": {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}, "ride_id": 256}'


def chosen(*arguments: str, seed: int = 0) -> RideSource:
    """Return the rides that a command line asks for."""
    parser = argparse.ArgumentParser()
    chosen_module.add_options(parser, json_lines=True)
    return chosen_module.rides_from_options(parser.parse_args(arguments), seed)


def rejected(records: list[RideRecord]) -> int:
    """Count the records that the function rejects."""
    _, rejections = decode_event(kinesis_event(*(record.data for record in records)))
    return len(rejections)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Write three lines, one of them blank and one of them nonsense."""
    path = tmp_path / "rides.jsonl"
    path.write_bytes(LINE + b"\n\n\xffnonsense\r\n")
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
    hours = Counter(int(ride.pickup_datetime[11:13]) for ride in generated if isinstance(ride, TimedRide))
    assert sum(hours[hour] for hour in range(6)) < sum(hours[hour] for hour in (15, 16, 17, 18)) / 4


def test_lines_keep_their_data_and_get_their_ride_id_or_else_their_digest_as_key(lines: Path) -> None:
    """Blank lines are skipped, bad ones are not. A digest puts the same line on the same shard again."""
    good, bad = read_json_rides(str(lines))
    assert (good.partition_key, good.data) == ("256", LINE)
    assert bad.data == b"\xffnonsense"
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


def test_a_file_that_is_one_document_is_one_record(tmp_path: Path) -> None:
    """However many lines it has."""
    path = tmp_path / "ride.json"
    path.write_text(json.dumps(json.loads(LINE), indent=4))
    (record,) = read_json_rides(str(path))
    assert record.partition_key == "256"
    assert json.loads(record.data) == json.loads(LINE)


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
    empty.write_text("\n\n")
    with pytest.raises(CommandError, match=r"no ride in .*empty\.jsonl"):
        chosen("--json", str(empty))


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
    """Only one of the two lines can go bad."""
    good, bad = with_bad_rides(read_json_rides(str(lines)), 100, seed=0)
    assert good.data != LINE
    assert bad.data == b"\xffnonsense"
