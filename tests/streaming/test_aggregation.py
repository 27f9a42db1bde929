"""Aggregated records: packing them as the Kinesis Producer Library does, and unpacking them."""

from typing import TYPE_CHECKING

import pytest
from aws_kinesis_agg import deaggregator
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from rides import InvalidRideError
from scripts.aws.shards import ShardReader, shard_ids
from scripts.sources.records import RideRecord, aggregate
from streaming.aggregation import MAGIC, is_aggregated, packed_records
from streaming.records import Rejection, decode_event
from tests.builders import encoded, kinesis_event, packed, ride_event, signed
from tests.tools import finish

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient


def packed_with_key(key: str) -> bytes:
    """Build the data of an aggregated record with one record of this key."""
    (record,) = aggregate([RideRecord(key, b"{}")])
    return record.data


class TestPackedRecords:
    """Unpacking an aggregated record."""

    def test_packed_records_are_unpacked_unchanged(self) -> None:
        """They are in order, each with its own key and data, and the data may be any bytes."""
        data = packed(b"one", b"", b"\xff\x00", MAGIC)
        assert is_aggregated(data)
        records = [("key-0", b"one"), ("key-1", b""), ("key-2", b"\xff\x00"), ("key-3", MAGIC)]
        assert list(packed_records(data)) == records

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            *((data, "MD5") for data in (MAGIC, MAGIC + b"x", MAGIC + bytes(16), packed(b"ride")[:-1] + b"?")),
            pytest.param(signed(b"\x0a\xff"), "protobuf", id="cut off"),
            pytest.param(signed(bytes(10)), "protobuf", id="zeros"),
            pytest.param(signed(packed(b"ride")[4:-20]), "protobuf", id="half of a record"),
            pytest.param(signed(b"\x1a\x04\x08\x05\x1a\x00"), "protobuf", id="a key that is not in the table"),
            pytest.param(signed(b""), "holds nothing", id="empty"),
            pytest.param(packed_with_key("k" * 257), "a partition key of 257 characters", id="long key"),
            pytest.param(packed_with_key("k" * 1025), "a partition key of 1025 bytes", id="very long key"),
        ],
    )
    def test_a_broken_aggregated_record_is_refused(self, data: bytes, reason: str) -> None:
        """The record's digest may be right, because a defective producer signs its broken records too."""
        with pytest.raises(InvalidRideError, match=reason) as caught:
            packed_records(data)
        assert caught.value.kind == "aggregate"

    @pytest.mark.parametrize("size", [1, 20, 100, 10_000], ids="{} records".format)
    def test_more_records_than_there_can_be_rides_are_refused(self, size: int) -> None:
        """A hundred records and keys are always accepted, and one more for each 16 bytes. A ride takes 80 bytes."""
        rides = b"\x0a\x01k" + (b"\x1a\x54\x08\x00\x1a\x50" + bytes(80)) * size
        most = next(most for most in range(100, 10**6) if 1 + size + most > 100 + (len(rides) + 6 * most + 20) // 16)
        accepted, refused = (signed(rides + b"\x1a\x04\x08\x00\x1a\x00" * number) for number in (most - 1, most))
        assert len(list(packed_records(accepted))) == size + most - 1
        with pytest.raises(InvalidRideError, match=f"{len(refused)} bytes .* too many for rides"):
            packed_records(refused)

    def test_a_key_that_too_many_records_share_is_refused(self) -> None:
        """Each rejection would repeat it. The smallest rides may all have the longest key."""
        long, ride = "k" * 256, b'{"ride":{"PULocationID":1,"DOLocationID":2,"trip_distance":3},"ride_id":7}'
        (rides,) = aggregate([RideRecord(long, ride)] * 1_000, most=1_000)
        assert len(list(packed_records(rides.data))) == 1_000
        (others,) = aggregate([RideRecord(long, b"x" * 40)] * 1_000, most=1_000)
        with pytest.raises(InvalidRideError, match="256000 characters of partition keys"):
            packed_records(others.data)

    def test_the_longest_partition_key_is_accepted(self) -> None:
        """A longer key could not have been put."""
        assert len(list(packed_records(packed_with_key("ü" * 256)))) == 1

    def test_a_partition_key_that_is_not_text_is_accepted(self) -> None:
        """The key is only shown to people."""
        assert list(packed_records(signed(b"\x0a\x02\xff\xfe\x1a\x06\x08\x00\x1a\x02hi"))) == [("��", b"hi")]


class TestDecode:
    """Aggregated records in a Kinesis event."""

    def test_each_packed_record_is_a_ride_or_a_rejection(self) -> None:
        """Each has the sequence number of the aggregated record, and its event_id followed by an index."""
        good, bad = b'{"ride": {"PULocationID": 1, "DOLocationID": 2, "trip_distance": 3}, "ride_id": 7}', b"{"
        received, rejections = decode_event(kinesis_event(ride_event(1), packed(good, bad, good), ride_event(3)))
        assert [ride.record.event_id.partition(":")[2] for ride in received] == ["1", "2:0", "2:2", "3"]
        assert [ride.record.sequence_number for ride in received] == ["1", "2", "2", "3"]
        assert received[1].record.partition_key == "key-0"
        (rejection,) = rejections
        assert (rejection.kind, rejection.record.event_id) == ("json", "shardId-000000000000:2:1")
        assert rejection.record.data == bad
        assert rejection.record.partition_key == "key-1"

    def test_a_broken_record_is_one_rejection(self) -> None:
        """The rejection has the whole record, unchanged."""
        data = packed(b"{}", b"{}")[:-1] + b"?"
        received, rejections = decode_event(kinesis_event(data))
        assert received == []
        (rejection,) = rejections
        assert isinstance(rejection, Rejection)
        assert (rejection.kind, rejection.record.event_id) == ("aggregate", "shardId-000000000000:1")
        assert "MD5" in rejection.reason
        assert rejection.record.data == encoded(data)

    def test_a_record_inside_another_is_not_unpacked(self) -> None:
        """The KPL never makes such a record. It counts as a user record that is not UTF-8."""
        _, (rejection,) = decode_event(kinesis_event(packed(packed(b"{}"))))
        assert (rejection.kind, rejection.record.event_id) == ("utf-8", "shardId-000000000000:1:0")

    @pytest.mark.parametrize("data", ["84maw", "84mawgA=", "84maww==", "84maw*"])
    def test_data_that_only_begins_like_an_aggregate_is_rejected(self, data: str) -> None:
        """The data may be base64 or not."""
        received, (rejection,) = decode_event(kinesis_event(data))
        assert received == []
        assert rejection.kind in ("aggregate", "base64", "utf-8")


messages = st.lists(
    st.builds(
        lambda tag, content: bytes([tag]) + content,
        st.sampled_from([0x08, 0x0A, 0x10, 0x12, 0x1A]),
        st.binary(max_size=4) | st.integers(0, 3).map(lambda size: bytes([size]) + bytes(size)),
    ),
    max_size=4,
).map(b"".join)
records_and_keys = st.lists(
    st.builds(
        lambda tag, content: bytes([tag, len(content)]) + content,
        st.sampled_from([0x0A, 0x1A, 0x1A, 0x12]),
        st.just(b"\x08\x00\x1a\x02hi") | messages,
    ),
    max_size=5,
).map(b"".join)


@given(records_and_keys | messages)
def test_a_record_is_unpacked_as_the_protobuf_library_does(message: bytes) -> None:
    """Both find the same packed records, or both refuse the message."""
    try:
        aggregated = deaggregator.messages_pb2.AggregatedRecord.FromString(message)
        keys = [key if isinstance(key, str) else key.decode(errors="replace") for key in aggregated.partition_key_table]
        records = [(keys[record.partition_key_index], record.data) for record in aggregated.records]
        expected = records if all(keys) else []  # Kinesis takes no empty key
    except (DecodeError, IndexError):
        expected = []
    try:
        found = list(packed_records(signed(message)))
    except InvalidRideError:
        found = []
    assert found == expected


class TestAggregated:
    """Packing records."""

    def test_at_most_the_given_number_of_records_is_packed_into_one(self) -> None:
        """Records stay in order, and the aggregated record has the key of the first."""
        records = [RideRecord(f"key-{number}", b"ride %d" % number) for number in range(25)]
        packets = aggregate(records, most=10)
        assert [packet.partition_key for packet in packets] == ["key-0", "key-10", "key-20"]
        inside = [RideRecord(*one) for packet in packets for one in packed_records(packet.data)]
        assert inside == records

    def test_an_aggregate_is_never_too_large_for_a_stream(self) -> None:
        """The key counts too. A record that is too large to be packed stays as it is, in its place."""
        large = RideRecord("large", bytes(1_048_570))
        packets = aggregate([*(RideRecord("ü" * 200, bytes(400_000)) for _ in range(3)), large, RideRecord("k", b"")])
        assert [len(packet.data) // 400_000 for packet in packets] == [2, 1, 2, 0]
        assert packets[2] is large
        assert all(len(packet.data) + len(packet.partition_key.encode()) <= 1_048_576 for packet in packets)


@pytest.mark.kinesis("moto", "kinesis-local")
def test_put_rides_can_pack_the_rides(kinesis: "KinesisClient", stream: str) -> None:
    """With --aggregate, every 100 rides are packed into a record."""
    done = finish("put-rides", "--stream", stream, "--rides", "250", "--bad", "2", "--seed", "3", "--aggregate")
    assert done.stdout == f"put 250 rides on {stream} (--seed 3)\n"
    (reader,) = [ShardReader(kinesis, stream, shard_id) for shard_id in shard_ids(kinesis, stream)]
    data = [record["Data"] for record in reader.read()]
    assert [len(list(packed_records(one))) for one in data] == [100, 100, 50]
    received, rejections = decode_event(kinesis_event(*data))
    assert (len(received), len(rejections)) == (245, 5)
