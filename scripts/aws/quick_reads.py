"""GetRecords on the wire: msgspec reads the response, because the SDK parses each record in Python.

``streaming.wire`` does this for PutRecords, and explains how. Errors are still read by the SDK's parser.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import msgspec
from botocore.awsrequest import AWSRequest
from botocore.endpoint import convert_to_response_dict
from botocore.parsers import create_parser

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient


class _Record(TypedDict):
    SequenceNumber: str
    ApproximateArrivalTimestamp: datetime
    Data: bytes
    PartitionKey: str


class _Response(TypedDict):
    Records: list[_Record]
    NextShardIterator: NotRequired[str | None]
    MillisBehindLatest: NotRequired[int]


# Not strict: the JSON has the times as seconds since the epoch.
_decoder = msgspec.json.Decoder(_Response, strict=False)


def speed_up_get_records(client: "KinesisClient") -> "KinesisClient":
    """Make GetRecords of this client faster, and return the client. The SDK does not retry the request any more."""
    session = cast(Any, client)._endpoint.http_session

    def request(
        model: Any, params: dict[str, Any], request_signer: Any, context: dict[str, Any], **_: object
    ) -> tuple[Any, Any] | None:
        if model.name != "GetRecords":
            return None
        sent = AWSRequest(params["method"], params["url"], params["headers"], params["body"])
        sent.context.update(context)
        request_signer.sign(model.name, sent)
        response = session.send(sent.prepare())
        if response.status_code == 200:
            return response, _decoder.decode(response.content)
        parser = create_parser(model.service_model.resolved_protocol)
        return response, parser.parse(convert_to_response_dict(response, model), model.output_shape)

    events: Any = client.meta.events  # in its type, handlers return nothing
    events.register_last("before-call", request)
    return client
