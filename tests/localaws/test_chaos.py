"""The fault-injecting endpoint: what each fault does to a client and to what lies behind, and what is left alone."""

import io
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws import chaos
from scripts.localaws.faults import (
    HARD,
    Answered,
    Call,
    Delayed,
    DroppedAfter,
    DroppedBefore,
    FailedEntries,
    FailedRequest,
    Fault,
    Rates,
    seeded,
)
from tests.tools import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

THROTTLED = "ProvisionedThroughputExceededException"
ALL_BYTES = bytes(range(256))


def one_try(**settings: Any) -> Config:
    """Configure a client that shows every fault instead of trying again."""
    return Config(retries={"total_max_attempts": 1}, **settings)


def kinesis_at(url: str, **settings: Any) -> "KinesisClient":
    """Make a Kinesis client for an endpoint."""
    return boto3.client("kinesis", endpoint_url=url, config=one_try(**settings))


def s3_at(url: str) -> "S3Client":
    """Make an S3 client for an endpoint."""
    return boto3.client("s3", endpoint_url=url, config=one_try())


def put(client: "KinesisClient", stream: str, *data: str) -> dict[str, Any]:
    """Put records of this data, which is their partition key too, and return the answer."""
    answer: Any = client.put_records(
        StreamName=stream, Records=[{"Data": item.encode(), "PartitionKey": item} for item in data]
    )
    return dict(answer)


def on(client: "KinesisClient", stream: str) -> list[str]:
    """Read back the data that the stream holds."""
    return [record["Data"].decode() for record in ShardReader(client, stream, shard_ids(client, stream)[0]).read()]


def never(call: Call) -> Fault | None:
    """Let every call through."""
    return None


def always(fault: Fault) -> chaos.Decide:
    """Do the same to every call."""
    return lambda call: fault


def once(fault: Fault) -> chaos.Decide:
    """Fail the first call of each operation."""
    return lambda call: fault if call.number == 0 else None


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
) -> tuple[int, str, HTTPMessage, bytes]:
    """Send a request as S3 is sent it, without the SDK, and return status, reason, headers and body of the answer."""
    scope = "Credential=local/20240101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)) as connection:
        connection.request(method, path, body, {"Authorization": f"AWS4-HMAC-SHA256 {scope}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.reason, answer.headers, answer.read()


class TestPassing:
    """What is not failed passes through as it is."""

    @pytest.fixture
    def url(self, endpoint: str) -> Iterator[str]:
        """Give the URL of an endpoint that would fail nothing."""
        with chaos.serve(endpoint, never) as server:
            yield server.url

    def test_records_are_put_and_read(self, url: str, stream: str) -> None:
        """Through the endpoint both ways."""
        client = kinesis_at(url)
        assert put(client, stream, "a", "b")["FailedRecordCount"] == 0
        assert on(client, stream) == ["a", "b"]

    def test_an_error_of_kinesis_is_its_own(self, url: str) -> None:
        """Status, code and message are the upstream's."""
        with pytest.raises(ClientError, match="no-such-stream") as raised:
            put(kinesis_at(url), "no-such-stream", "a")
        assert raised.value.response["Error"]["Code"] == "ResourceNotFoundException"
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400

    @pytest.mark.parametrize("body", [b"", ALL_BYTES, ALL_BYTES * 8192], ids=["empty", "each byte", "2 MiB"])
    def test_an_object_is_the_same_byte_by_byte(self, url: str, s3: "S3Client", bucket: str, body: bytes) -> None:
        """Written through the endpoint and read on both sides; the SDK waits for 100 Continue before the body."""
        key = "a key/ü+%2F?.bin"
        through = s3_at(url)
        through.put_object(Bucket=bucket, Key=key, Body=body)
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        assert through.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        assert through.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(body)
        assert [found["Key"] for found in through.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
        through.delete_object(Bucket=bucket, Key=key)
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0

    def test_a_body_in_the_sdks_own_chunks_is_taken_apart_upstream(self, url: str, s3: "S3Client", bucket: str) -> None:
        """What `aws-chunked` wraps is S3's to unwrap."""
        wrapped = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
        headers = {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": "5",
            "X-Amz-Content-SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "X-Amz-Trailer": "x-amz-checksum-crc32",
        }
        status, *_ = ask(url, "PUT", f"/{bucket}/key", wrapped, headers)
        assert status == 200
        assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == b"hello"

    @pytest.mark.parametrize(("call", "code"), [("get_object", "NoSuchKey"), ("head_object", "404")])
    def test_an_error_of_s3_is_its_own(self, url: str, bucket: str, call: str, code: str) -> None:
        """With a body of XML, or without one where the method is HEAD."""
        with pytest.raises(ClientError) as raised:
            getattr(s3_at(url), call)(Bucket=bucket, Key="none")
        assert raised.value.response["Error"]["Code"] == code
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
    def test_an_answer_has_the_same_status_headers_and_body(
        self, url: str, endpoint: str, s3: "S3Client", bucket: str, method: str
    ) -> None:
        """But for the time, the request's id, and what concerns the connection alone."""

        def answer(where: str) -> tuple[int, str, list[tuple[str, str]], bytes]:
            s3.put_object(Bucket=bucket, Key="key", Body=b"hello", Metadata={"who": "me"})
            status, reason, headers, body = ask(where, method, f"/{bucket}/key")
            assert status in (200, 204)
            changing = {"date", "last-modified", "x-amzn-requestid", "connection"}
            return status, reason, [pair for pair in headers.items() if pair[0].lower() not in changing], body

        assert answer(url) == answer(endpoint)

    def test_an_answer_in_chunks_gets_a_length(self) -> None:
        """Other servers than moto's do not know it beforehand."""

        class InChunks(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")

        with HTTPServer(("127.0.0.1", 0), InChunks) as upstream, ThreadPoolExecutor() as threads:
            threads.submit(upstream.handle_request)
            with chaos.serve(f"http://127.0.0.1:{upstream.server_port}", never) as server:
                _, _, headers, body = ask(server.url, "GET", "/")
        assert body == b"hello!"
        assert (headers["Content-Length"], headers["Transfer-Encoding"]) == ("6", None)

    def test_a_connection_serves_many_requests(self, url: str, bucket: str) -> None:
        """As one to AWS does, though moto's server closes each."""
        with closing(HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)) as connection:
            connection.connect()
            first = connection.sock
            for _ in range(3):
                connection.request("GET", f"/{bucket}")
                connection.getresponse().read()
                assert connection.sock is first

    def test_only_put_records_and_put_object_are_ever_failed(self, endpoint: str, stream: str, bucket: str) -> None:
        """No other call is even asked about: not a bucket's, copy's, part's or tag's, nor a single record's."""
        calls: list[Call] = []
        with chaos.serve(endpoint, calls.append) as server:
            s3 = s3_at(server.url)
            s3.create_bucket(Bucket=f"{bucket}-2")
            s3.put_object(Bucket=bucket, Key="a/b c", Body=b"x")
            s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/a/b c")
            s3.put_object_tagging(Bucket=bucket, Key="copy", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
            upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
            s3.upload_part(Bucket=bucket, Key="parts", PartNumber=1, UploadId=upload, Body=b"x")
            s3.upload_fileobj(io.BytesIO(b"y"), bucket, "file")
            kinesis = kinesis_at(server.url)
            kinesis.put_record(StreamName=stream, Data=b"x", PartitionKey="x")
            put(kinesis, stream, "a", "b")
            put(kinesis, stream, "c")
        assert [(call.operation, call.number, call.key) for call in calls] == [
            ("PutObject", 0, f"{bucket}/a/b c"),
            ("PutObject", 1, f"{bucket}/file"),
            ("PutRecords", 0, ""),
            ("PutRecords", 1, ""),
        ]
        assert [[entry["PartitionKey"] for entry in call.entries] for call in calls] == [[], [], ["a", "b"], ["c"]]
        assert server.entry_counts == [2, 1]
        assert not server.faults


class TestFailedEntries:
    """Some entries of a PutRecords call are not taken."""

    @pytest.mark.parametrize("failed", [set(), {0}, {2}, {1, 3}, {0, 1, 2, 3}], ids=str)
    @pytest.mark.parametrize("code", [THROTTLED, "InternalFailure"])
    def test_the_others_are_on_the_stream(
        self, endpoint: str, kinesis: "KinesisClient", stream: str, failed: set[int], code: chaos.EntryErrorCode
    ) -> None:
        """The results stand in the order of the request, each with a sequence number or an error."""
        with chaos.serve(endpoint, always(FailedEntries(frozenset(failed), code))) as server:
            answer = put(kinesis_at(server.url), stream, *"abcd")
        assert answer["FailedRecordCount"] == len(failed)
        assert [result.get("ErrorCode") for result in answer["Records"]] == [
            code if index in failed else None for index in range(4)
        ]
        taken = [item for index, item in enumerate("abcd") if index not in failed]
        numbers = [int(result["SequenceNumber"]) for result in answer["Records"] if "SequenceNumber" in result]
        assert on(kinesis, stream) == taken
        assert len(numbers) == len(taken)
        assert numbers == sorted(numbers)
        assert server.faults == Counter({f"PutRecords: entries answered {code}": len(failed)})

    def test_an_error_of_the_upstream_goes_before(self, endpoint: str) -> None:
        """Where it takes none of the others, its answer is the answer."""
        with (
            chaos.serve(endpoint, always(FailedEntries(frozenset({0})))) as server,
            pytest.raises(ClientError, match="ResourceNotFoundException"),
        ):
            put(kinesis_at(server.url), "no-such-stream", "a", "b")

    def test_an_entry_that_the_call_does_not_have_is_a_mistake(self, endpoint: str, stream: str) -> None:
        """Of who decides."""
        with (
            pytest.raises(ValueError, match="cannot fail in a call of 2 entries"),
            chaos.serve(endpoint, always(FailedEntries(frozenset({2})))) as server,
            pytest.raises(ConnectionClosedError),
        ):
            put(kinesis_at(server.url), stream, "a", "b")

    def test_an_object_has_none(self, endpoint: str, bucket: str) -> None:
        """That too is a mistake of who decides."""
        with (
            pytest.raises(TypeError, match="PutObject has no entries"),
            chaos.serve(endpoint, always(FailedEntries(frozenset()))) as server,
            pytest.raises(ConnectionClosedError),
        ):
            s3_at(server.url).put_object(Bucket=bucket, Key="key", Body=b"x")


class TestFaultsOfRequests:
    """A whole call fails, and the next one does not."""

    @pytest.mark.parametrize(
        ("fault", "counted"),
        [
            (FailedRequest(400, THROTTLED), f"answered 400 {THROTTLED}"),
            (FailedRequest(500, "InternalFailure"), "answered 500 InternalFailure"),
            (FailedRequest(503, "ServiceUnavailable"), "answered 503 ServiceUnavailable"),
        ],
        ids=str,
    )
    def test_an_error_of_kinesis_says_its_status_and_code(
        self, endpoint: str, kinesis: "KinesisClient", stream: str, fault: FailedRequest, counted: str
    ) -> None:
        """And the stream holds nothing of it."""
        with chaos.serve(endpoint, once(fault)) as server:
            client = kinesis_at(server.url)
            with pytest.raises(ClientError) as raised:
                put(client, stream, "a")
            put(client, stream, "b")
        assert raised.value.response["Error"]["Code"] == fault.code
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == fault.status
        assert on(kinesis, stream) == ["b"]
        assert server.faults == Counter({f"PutRecords: {counted}": 1})

    def test_a_throttled_request_is_the_exception_of_that_name(self, endpoint: str, stream: str) -> None:
        """As the client itself knows it."""
        with chaos.serve(endpoint, always(FailedRequest(400, THROTTLED))) as server:
            client = kinesis_at(server.url)
            with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
                put(client, stream, "a")

    @pytest.mark.parametrize("fault", [FailedRequest(500, "InternalError"), FailedRequest(503, "SlowDown")], ids=str)
    def test_an_error_of_s3_says_its_status_and_code(
        self, endpoint: str, s3: "S3Client", bucket: str, fault: FailedRequest
    ) -> None:
        """And the bucket holds nothing of it."""
        with chaos.serve(endpoint, once(fault)) as server:
            client = s3_at(server.url)
            with pytest.raises(ClientError) as raised:
                client.put_object(Bucket=bucket, Key="a", Body=b"x")
            client.put_object(Bucket=bucket, Key="b", Body=b"x")
        assert raised.value.response["Error"]["Code"] == fault.code
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == fault.status
        assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["b"]
        assert server.faults == Counter({f"PutObject: {fault}": 1})

    @pytest.mark.parametrize(("fault", "held"), [(DroppedBefore(), ["b"]), (DroppedAfter(), ["a", "b"])], ids=repr)
    def test_a_dropped_put_to_a_stream_has_no_answer(
        self, endpoint: str, kinesis: "KinesisClient", stream: str, fault: Fault, held: list[str]
    ) -> None:
        """Whether the stream holds it is what the client cannot know."""
        with chaos.serve(endpoint, once(fault)) as server:
            client = kinesis_at(server.url)
            with pytest.raises(ConnectionClosedError):
                put(client, stream, "a")
            put(client, stream, "b")
        assert on(kinesis, stream) == held
        assert server.faults == Counter({f"PutRecords: {fault}": 1})

    @pytest.mark.parametrize(("fault", "held"), [(DroppedBefore(), ["b"]), (DroppedAfter(), ["a", "b"])], ids=repr)
    def test_a_dropped_put_to_a_bucket_has_no_answer(
        self, endpoint: str, s3: "S3Client", bucket: str, fault: Fault, held: list[str]
    ) -> None:
        """Whether the bucket holds it is what the client cannot know."""
        with chaos.serve(endpoint, once(fault)) as server:
            client = s3_at(server.url)
            with pytest.raises(ConnectionClosedError):
                client.put_object(Bucket=bucket, Key="a", Body=b"x")
            client.put_object(Bucket=bucket, Key="b", Body=b"x")
        assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == held

    def test_a_late_answer_comes_no_sooner_than_it_should(
        self, endpoint: str, kinesis: "KinesisClient", stream: str
    ) -> None:
        """It is the answer of the upstream, which had the records long before."""
        with chaos.serve(endpoint, always(Delayed(0.2))) as server:
            began = time.monotonic()
            answer = put(kinesis_at(server.url), stream, "a")
            assert time.monotonic() - began >= 0.2
        assert answer["Records"][0]["SequenceNumber"]
        assert on(kinesis, stream) == ["a"]

    def test_a_client_that_does_not_wait_so_long_never_knows(
        self, endpoint: str, kinesis: "KinesisClient", stream: str
    ) -> None:
        """The records are on the stream all the same."""
        with chaos.serve(endpoint, always(Delayed(PATIENCE))) as server:
            with pytest.raises(ReadTimeoutError):
                put(kinesis_at(server.url, read_timeout=0.5), stream, "a")
            assert on(kinesis, stream) == ["a"]

    def test_another_body_is_answered_as_it_is(self, endpoint: str, kinesis: "KinesisClient", stream: str) -> None:
        """With status 200, and the stream holds nothing."""
        with chaos.serve(endpoint, always(Answered(b'{"Records": []}'))) as server:
            answer = put(kinesis_at(server.url), stream, "a")
        assert answer["Records"] == []
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert on(kinesis, stream) == []


class TestManyClients:
    """Several at once, and some that are killed."""

    def test_each_gets_its_own_answers(self, endpoint: str, stream: str) -> None:
        """Every client's entries fail at places of its own."""

        def at_the_clients_place(call: Call) -> Fault:
            client = int(call.entries[0]["PartitionKey"].partition(" ")[0])
            return FailedEntries(frozenset({client}))

        def failed_for(client: int) -> list[list[int]]:
            kinesis = kinesis_at(server.url)
            answers = [put(kinesis, stream, *(f"{client} {call} {n}" for n in range(8))) for call in range(5)]
            return [[n for n, result in enumerate(got["Records"]) if "ErrorCode" in result] for got in answers]

        with chaos.serve(endpoint, at_the_clients_place) as server, ThreadPoolExecutor(8) as threads:
            assert list(threads.map(failed_for, range(8))) == [[[client]] * 5 for client in range(8)]
        assert server.faults.total() == 8 * 5

    def test_numbers_are_given_in_order_whoever_calls(self, endpoint: str, stream: str) -> None:
        """None twice, and none is left out."""
        numbers: list[int] = []
        with (
            chaos.serve(endpoint, lambda call: numbers.append(call.number)) as server,
            ThreadPoolExecutor(8) as threads,
        ):
            list(threads.map(lambda client: put(kinesis_at(server.url), stream, "a"), range(8)))
        assert numbers == list(range(8))

    def test_half_a_request_counts_for_nothing(self, endpoint: str, s3: "S3Client", bucket: str) -> None:
        """A client that was killed while it wrote an object has not written half of it."""
        with chaos.serve(endpoint, never) as server:
            host, port = server.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(f"PUT /{bucket}/key HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf".encode())
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


class TestTheEnd:
    """Leaving the block, and what does not work."""

    def test_a_delay_does_not_hold_it_up(self, endpoint: str, kinesis: "KinesisClient", stream: str) -> None:
        """The client that waits sees its connection closed."""
        began = threading.Event()

        def delayed(call: Call) -> Fault:
            began.set()
            return Delayed(PATIENCE)

        with ThreadPoolExecutor() as threads:
            with chaos.serve(endpoint, delayed) as server:
                waiting = threads.submit(put, kinesis_at(server.url, read_timeout=600), stream, "a")
                assert began.wait(PATIENCE)
                leaving = time.monotonic()
            assert time.monotonic() - leaving < PATIENCE / 4
            assert isinstance(waiting.exception(PATIENCE), ConnectionClosedError)
        assert on(kinesis, stream) == ["a"]

    def test_what_was_handed_on_is_applied_by_then(self, endpoint: str, kinesis: "KinesisClient", stream: str) -> None:
        """Nothing reaches the stream any more once the block is left, not even from a slow upstream."""
        began = threading.Event()

        def slow(call: Call) -> None:
            began.set()
            time.sleep(0.2)

        with (
            ThreadPoolExecutor() as threads,
            chaos.serve(endpoint, slow) as upstream,
        ):
            with chaos.serve(upstream.url, never) as server:
                threads.submit(put, kinesis_at(server.url), stream, "a")
                assert began.wait(PATIENCE)
            assert on(kinesis, stream) == ["a"]

    def test_connections_that_clients_keep_are_closed(self, endpoint: str, stream: str) -> None:
        """Nothing comes through any more."""
        with chaos.serve(endpoint, never) as server:
            client = kinesis_at(server.url)
            put(client, stream, "a")
        with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
            put(client, stream, "b")

    @pytest.mark.parametrize(
        ("body", "headers", "said"),
        [
            (b"\xbfjStreamNameax", {"Content-Type": "application/x-amz-cbor-1.1"}, "not JSON"),
            (b'{"StreamName": "x"}', {}, "Records"),
            (None, {"Transfer-Encoding": "chunked"}, "Content-Length"),
        ],
        ids=["CBOR", "no entries", "chunked"],
    )
    def test_what_cannot_be_read_is_raised(
        self, endpoint: str, body: bytes | None, headers: dict[str, str], said: str
    ) -> None:
        """Rather than passed on without a fault."""
        with (
            pytest.raises((ValueError, KeyError), match=said),
            chaos.serve(endpoint, never) as server,
            pytest.raises(ConnectionError),
        ):
            ask(server.url, "POST", "/", body, {"X-Amz-Target": "Kinesis_20131202.PutRecords", **headers})

    def test_a_mistake_in_deciding_is_raised(self, endpoint: str, stream: str) -> None:
        """A client that tries again after every fault would hide it."""

        def decide(call: Call) -> Fault:
            raise ZeroDivisionError

        with (
            pytest.raises(ZeroDivisionError),
            chaos.serve(endpoint, decide) as server,
            pytest.raises(ConnectionClosedError),
        ):
            put(kinesis_at(server.url), stream, "a")

    def test_an_upstream_that_is_gone_is_a_bad_gateway(self, aws_environment: None) -> None:
        """The answer names it, where it may have a body."""
        with (
            chaos.serve("http://127.0.0.1:1", never) as server,
            closing(HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)) as connection,
        ):
            for method, said in (("HEAD", b""), ("GET", b"http://127.0.0.1:1: ")):
                connection.request(method, "/")
                answer = connection.getresponse()
                assert answer.status == 502
                assert answer.read().startswith(said)


class TestRates:
    """How often each fault strikes."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Rates(throttled_entries=1.1),
            lambda: Rates(failed_s3_puts=-0.1),
            lambda: Rates(delayed=math.nan),
            lambda: Rates(dropped_before=0.6, dropped_after=0.5),
            lambda: Rates(delay_seconds=-1),
            lambda: Rates(delay_seconds=math.inf),
        ],
        ids=["above 1", "below 0", "not a number", "together above 1", "a negative delay", "an endless delay"],
    )
    def test_what_is_no_rate_is_refused(self, make: Callable[[], Rates]) -> None:
        """Nothing is drawn from it."""
        with pytest.raises(ValueError, match="rate|delay"):
            make()

    def test_faults_of_whole_requests_may_take_all(self) -> None:
        """Five times a fifth is one."""
        rates = Rates(throttled_requests=0.2, server_errors=0.2, dropped_before=0.2, dropped_after=0.2, delayed=0.2)
        assert all(drawn(rates, 0, "PutRecords", 500))

    def test_without_rates_nothing_fails(self) -> None:
        """That is the default."""
        assert not any(drawn(Rates(), 0, "PutRecords", 500) + drawn(Rates(), 0, "PutObject", 500))

    def test_a_seed_gives_the_same_faults_in_whatever_order(self) -> None:
        """And another seed gives others."""
        decide = seeded(HARD, 3)
        backwards = [decide(put_records(number)) for number in reversed(range(200))]
        assert backwards[::-1] == drawn(HARD, 3, "PutRecords", 200)
        assert backwards[::-1] != drawn(HARD, 4, "PutRecords", 200)

    def test_put_records_fails_at_its_rates(self) -> None:
        """About a hundred of 2,000 calls each way, and three tenths of the other calls' entries."""
        faults = drawn(HARD, 3, "PutRecords", 2000)
        of_entries = [fault for fault in faults if isinstance(fault, FailedEntries)]
        of_requests = [fault for fault in faults if fault and not isinstance(fault, FailedEntries)]
        assert Counter(str(fault) for fault in of_requests) == {
            f"answered 400 {THROTTLED}": 105,
            "answered 500 InternalFailure": 40,
            "answered 503 ServiceUnavailable": 47,
            "answered late": 107,
            "dropped before it was applied": 106,
            "dropped after it was applied": 96,
        }
        passing = len(faults) - len(of_requests)
        assert (passing * 10, sum(len(fault.indexes) for fault in of_entries)) == (14990, 4439)
        assert {fault.code for fault in of_entries} == {THROTTLED}

    def test_put_object_fails_at_its_rate(self) -> None:
        """About a hundred of 2,000 calls, half of them without an answer."""
        assert Counter(str(fault) for fault in drawn(HARD, 3, "PutObject", 2000) if fault) == {
            "answered 500 InternalError": 23,
            "answered 503 SlowDown": 31,
            "dropped before it was applied": 46,
        }

    def test_they_strike_real_clients(self, endpoint: str, kinesis: "KinesisClient", stream: str) -> None:
        """What clients are told failed is what the endpoint counts."""
        with chaos.serve(endpoint, seeded(Rates(throttled_entries=0.3), 1)) as server:
            answers = [put(kinesis_at(server.url), stream, *map(str, range(50))) for _ in range(4)]
        failed = sum(answer["FailedRecordCount"] for answer in answers)
        assert failed == server.faults.total()
        assert len(on(kinesis, stream)) == 200 - failed


def put_records(number: int) -> Call:
    """Build a PutRecords call of ten entries."""
    return Call("PutRecords", number, [{}] * 10)


def drawn(rates: Rates, seed: int, operation: chaos.Operation, count: int) -> list[Fault | None]:
    """Draw what happens to so many calls, of ten entries where they are PutRecords."""
    decide = seeded(rates, seed)
    return [
        decide(put_records(number) if operation == "PutRecords" else Call(operation, number)) for number in range(count)
    ]
