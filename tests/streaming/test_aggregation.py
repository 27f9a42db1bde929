"""Aggregated records: packed as the Kinesis Producer Library does it, and taken apart again."""

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from scripts.aws.shards import ShardReader, shard_ids
from scripts.sources.records import RideRecord, aggregate
from streaming.aggregation import (
    MAGIC,
    BrokenAggregateError,
    PackedRecord,
    is_aggregated,
    packed_records,
)
from streaming.records import Rejection, decode_event
from tests.builders import encoded, kinesis_event, ride_event
from tests.tools import ROOT, finish

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient


def packed(*data: bytes) -> bytes:
    """Build the data of an aggregated record, in which the n-th record has the key ``key-n``."""
    (record,) = aggregate([RideRecord(f"key-{place}", one) for place, one in enumerate(data)])
    return record.data


def signed(message: bytes) -> bytes:
    """Build an aggregated record around any bytes, with the digest that they have."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


class TestPackedRecords:
    """Taking one apart."""

    def test_they_come_out_as_they_went_in(self) -> None:
        """In order, each with its own key and its bytes, whatever they are."""
        data = packed(b"one", b"", b"\xff\x00", MAGIC)
        assert is_aggregated(data)
        assert packed_records(data) == [
            PackedRecord("key-0", b"one"),
            PackedRecord("key-1", b""),
            PackedRecord("key-2", b"\xff\x00"),
            PackedRecord("key-3", MAGIC),
        ]

    @pytest.mark.parametrize("data", [MAGIC, MAGIC + b"x", MAGIC + bytes(16), packed(b"ride")[:-1] + b"?"])
    def test_another_digest_is_refused(self, data: bytes) -> None:
        """Then nothing in it is trusted."""
        with pytest.raises(BrokenAggregateError, match="MD5"):
            packed_records(data)

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(b"\x0a\xff", id="cut off"),
            pytest.param(bytes(10), id="zeros"),
            pytest.param(packed(b"ride")[4:-20], id="half of one"),
            pytest.param(b"\x1a\x04\x08\x05\x1a\x00", id="a key that is in no table"),
        ],
    )
    def test_a_broken_message_is_refused(self, message: bytes) -> None:
        """Its digest may be right: a producer with a defect signs what it makes."""
        with pytest.raises(BrokenAggregateError, match="protobuf"):
            packed_records(signed(message))

    def test_an_empty_one_is_refused(self) -> None:
        """What holds nothing would else be gone without a trace."""
        with pytest.raises(BrokenAggregateError, match="holds nothing"):
            packed_records(signed(b""))

    def test_one_with_more_records_than_there_can_be_rides_is_refused(self) -> None:
        """Each would be a rejection of two hundred bytes, and a megabyte has room for a hundred thousand."""
        message = b"\x0a\x01k" + b"\x1a\x04\x08\x00\x1a\x00" * 65_537
        with pytest.raises(BrokenAggregateError, match="65537 records"):
            packed_records(signed(message))
        assert len(packed_records(signed(message[:-6]))) == 65_536

    def test_a_key_that_no_stream_takes_is_refused(self) -> None:
        """Eighty thousand rejections in a megabyte could share one of half a megabyte, and each would repeat it."""
        (longest,) = aggregate([RideRecord("ü" * 256, b"{}")])
        assert len(packed_records(longest.data)) == 1
        (longer,) = aggregate([RideRecord("k" * 257, b"{}")])
        with pytest.raises(BrokenAggregateError, match="a partition key of 257 characters"):
            packed_records(longer.data)

    def test_a_key_that_is_no_text_does_no_harm(self) -> None:
        """It is only shown."""
        assert packed_records(signed(b"\x0a\x02\xff\xfe\x1a\x06\x08\x00\x1a\x02hi")) == [PackedRecord("��", b"hi")]


class TestDecode:
    """Aggregated records of a Kinesis event."""

    def test_each_user_record_is_a_ride_or_a_rejection_of_its_own(self) -> None:
        """With the parent's sequence number, and its event_id followed by the place within it."""
        good, bad = b'{"ride": {"PULocationID": 1, "DOLocationID": 2, "trip_distance": 3}, "ride_id": 7}', b"{"
        received, rejections = decode_event(kinesis_event(ride_event(1), packed(good, bad, good), ride_event(3)))
        assert [ride.record.event_id.partition(":")[2] for ride in received] == ["1", "2:0", "2:2", "3"]
        assert [ride.record.sequence_number for ride in received] == ["1", "2", "2", "3"]
        assert received[1].record.partition_key == "key-0"
        (rejection,) = rejections
        assert (rejection.kind, rejection.record.event_id) == ("json", "shardId-000000000000:2:1")
        assert rejection.record.data == bad
        assert rejection.record.partition_key == "key-1"

    def test_a_broken_one_is_one_rejection(self) -> None:
        """Of the whole record, as it came."""
        data = packed(b"{}", b"{}")[:-1] + b"?"
        received, rejections = decode_event(kinesis_event(data))
        assert received == []
        (rejection,) = rejections
        assert isinstance(rejection, Rejection)
        assert (rejection.kind, rejection.record.event_id) == ("aggregate", "shardId-000000000000:1")
        assert "MD5" in rejection.reason
        assert rejection.record.data == encoded(data)

    def test_one_inside_another_is_not_taken_apart(self) -> None:
        """The KPL makes none: it is a user record that is no UTF-8."""
        _, (rejection,) = decode_event(kinesis_event(packed(packed(b"{}"))))
        assert (rejection.kind, rejection.record.event_id) == ("utf-8", "shardId-000000000000:1:0")

    @pytest.mark.parametrize("data", ["84maw", "84mawgA=", "84maww==", "84maw*"])
    def test_what_only_begins_like_one_is_a_rejection(self, data: str) -> None:
        """Whether or not it is base64."""
        received, (rejection,) = decode_event(kinesis_event(data))
        assert received == []
        assert rejection.kind in ("aggregate", "base64", "utf-8")


def test_other_records_import_nothing_for_it() -> None:
    """The libraries cost 50 ms, which most cold starts save."""
    program = (
        "import json, sys\nfrom streaming.records import decode_event\n"
        "received, _ = decode_event(json.load(open('events/kinesis-batch.json')))\n"
        "assert received\n"
        "print([name for name in sys.modules if name.startswith(('google', 'aws_kinesis_agg'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class TestAggregated:
    """Packing rides."""

    def test_at_most_so_many_are_packed_into_one(self) -> None:
        """In order, under the key of the first."""
        records = [RideRecord(f"key-{number}", b"ride %d" % number) for number in range(25)]
        packets = aggregate(records, most=10)
        assert [packet.partition_key for packet in packets] == ["key-0", "key-10", "key-20"]
        inside = [RideRecord(*one) for packet in packets for one in packed_records(packet.data)]
        assert inside == records

    def test_one_is_never_larger_than_a_stream_takes(self) -> None:
        """With its key; what is too large to be packed stays as it is, in its place."""
        large = RideRecord("large", bytes(1_048_570))
        packets = aggregate([*(RideRecord("ü" * 200, bytes(400_000)) for _ in range(3)), large, RideRecord("k", b"")])
        assert [len(packet.data) // 400_000 for packet in packets] == [2, 1, 2, 0]
        assert packets[2] is large
        assert all(len(packet.data) + len(packet.partition_key.encode()) <= 1_048_576 for packet in packets)


@pytest.mark.kinesis("moto", "kinesis-local")
def test_put_rides_packs_them(kinesis: "KinesisClient", stream: str) -> None:
    """With --aggregate."""
    done = finish("put-rides", "--stream", stream, "--rides", "250", "--bad", "2", "--seed", "3", "--aggregate")
    assert done.stdout == f"put 250 rides on {stream} (--seed 3)\n"
    (reader,) = [ShardReader(kinesis, stream, shard_id) for shard_id in shard_ids(kinesis, stream)]
    data = [record["Data"] for record in reader.read()]
    assert [len(packed_records(one)) for one in data] == [100, 100, 50]
    received, rejections = decode_event(kinesis_event(*data))
    assert (len(received), len(rejections)) == (245, 5)
