"""PutRecords on the wire: msgspec writes the request and reads the response, and the SDK signs and sends it.

The SDK serializes and parses each entry in Python, and copies a request several times before it sends it. So a handler
of the SDK's last event before a request (``before-call``) sends the request itself and returns the response, and the
SDK skips the rest (boto3 guide, "Extensibility guide"). The client, the endpoint, the headers, the credentials, the
signature, the connection and the errors still come from the SDK.
"""

import contextlib
import functools
from typing import TYPE_CHECKING, Any, cast

import msgspec
from botocore.awsrequest import AWSRequest
from botocore.endpoint import convert_to_response_dict
from botocore.parsers import create_parser

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

PARAMETERS = "put_records_parameters"
"""The key of the parameters in the request's context, while botocore handles a request without entries."""

_encoder = msgspec.json.Encoder()


class _Response(msgspec.Struct):
    """The part of a response that is read: a result for each entry, which may be anything."""

    Records: list[Any]


_decoder = msgspec.json.Decoder(_Response)


def speed_up_put_records(client: "KinesisClient") -> "KinesisClient":
    """Make PutRecords of this client faster, and return the client. It must not validate parameters or retry."""
    # The session has the connections and the settings for TLS and proxies. The SDK has no public name for it.
    session = cast(Any, client)._endpoint.http_session
    events: Any = client.meta.events  # in its type, handlers return nothing
    events.register("provide-client-params.kinesis.PutRecords", _hide_entries)
    # It runs after the handlers that add headers, because the first handler that returns a response ends the event.
    events.register_last("before-call", functools.partial(_request, session))
    return client


def _hide_entries(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """Keep the parameters in the context, and let botocore build a request without entries."""
    context[PARAMETERS] = params.copy()
    params["Records"] = []


def _request(
    session: Any, model: Any, params: dict[str, Any], request_signer: Any, context: dict[str, Any], **_: object
) -> tuple[Any, dict[str, Any]] | None:
    """Send the entries, and return the response and its parsed content. Botocore handles all other operations."""
    if model.name != "PutRecords":
        return None
    # msgspec writes bytes as base64, as Kinesis expects them.
    body = _encoder.encode(context[PARAMETERS])
    request = AWSRequest(params["method"], params["url"], params["headers"], body)
    request.context.update(context)  # the signature needs the endpoint's region and name, which are in the context
    request_signer.sign(model.name, request)
    response = session.send(request.prepare())
    if response.status_code == 200:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return response, {"Records": _decoder.decode(response.content).Records}
    # The SDK's own parser says what is wrong.
    parser = create_parser(model.service_model.resolved_protocol)
    return response, parser.parse(convert_to_response_dict(response, model), model.output_shape)
