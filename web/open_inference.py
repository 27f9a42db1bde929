"""The Open Inference Protocol (version 2), which model servers and their platforms speak: rides as tensors.

https://github.com/kserve/open-inference-protocol: each input has a name, a shape, a datatype, and the data in one list
or in nested lists. One bad ride fails the whole request, because the protocol has only one error for a request.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from rides import BAD_TIME, TIME, InvalidRideError, Ride, check_time, convert_other_time, decode_json
from web.rides import MAX_RIDES

DATATYPES = {
    field.encode_name: {"integer": "INT64", "number": "FP64"}.get(
        msgspec.json.schema(field.type).get("type", ""), "BYTES"
    )
    for field in msgspec.structs.fields(Ride)
    if field.required
}
"""The inputs that a request must have, by name."""
OPTIONAL = {TIME: "BYTES"}
"""The inputs that a request may have, by name."""
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
ACCEPTED = {"INT64": INTEGERS, "FP64": ("FP16", "FP32", "FP64", *INTEGERS), "BYTES": ("BYTES",)}
"""The datatypes that an input may have, by the one that the model's description names."""


class _Tensor(Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferenceRequest(Struct, frozen=True):
    """A request: an id that the answer repeats, and the inputs."""

    inputs: list[_Tensor]
    id: str | None = None


_requests = msgspec.json.Decoder(InferenceRequest)


def decode_request(body: bytes) -> tuple[str | None, list[Ride]]:
    """Return the request's id and its rides. Raises InvalidRideError; its reason names the input."""
    request = decode_json(_requests, body)
    given = {tensor.name for tensor in request.inputs}
    wanted = [*DATATYPES, *(name for name in OPTIONAL if name in given)]
    columns = {name: _column(request.inputs, name) for name in wanted}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1 or not 1 <= max(lengths) <= MAX_RIDES:
        raise InvalidRideError("ride", f"give all inputs the same number of values, from 1 to {MAX_RIDES:,}")
    rides = []
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        try:
            ride = _convert(dict(zip(columns, values, strict=True)))
            check_time(ride, "$")
        except (msgspec.ValidationError, InvalidRideError) as error:
            raise InvalidRideError("ride", f"value {number}: {error}") from error
        rides.append(ride)
    return request.id, rides


def _convert(fields: dict[str, Any]) -> Ride:
    try:
        return msgspec.convert(fields, Ride)
    except msgspec.ValidationError as error:
        if BAD_TIME not in str(error):
            raise
        return convert_other_time(fields, Ride, str(error))


def make_response(
    outcomes: Sequence[float | InvalidRideError], request_id: str | None, *, model: str, version: str, field: str
) -> dict[str, Any]:
    """Return the response with the predicted values, in the rides' order. Raises InvalidRideError if one is missing."""
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, InvalidRideError):
            raise InvalidRideError(outcome.kind, f"value {number}: {outcome.reason}")
    output = {"name": field, "datatype": "FP64", "shape": [len(outcomes)], "data": list(outcomes)}
    names = {"model_name": model, "model_version": version}
    return names | ({} if request_id is None else {"id": request_id}) | {"outputs": [output]}


def describe_model(*, model: str, version: str, field: str, wants_time: bool) -> dict[str, Any]:
    """Return the model's metadata. The optional input is in it if the model wants the time."""
    described = DATATYPES | (OPTIONAL if wants_time else {})
    inputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in described.items()]
    outputs = [{"name": field, "datatype": "FP64", "shape": [-1]}]
    return {"name": model, "versions": [version], "platform": "mlflow", "inputs": inputs, "outputs": outputs}


def _column(inputs: Sequence[_Tensor], name: str) -> list[Any]:
    """Return the values of an input. Raises InvalidRideError."""
    found = [tensor for tensor in inputs if tensor.name == name]
    if len(found) != 1:
        raise InvalidRideError(
            "ride", f"send one input for each of {', '.join(DATATYPES)}: {len(found)} inputs have the name {name}"
        )
    tensor = found[0]
    accepted = ACCEPTED[(DATATYPES | OPTIONAL)[name]]
    if tensor.datatype not in accepted:
        raise InvalidRideError("ride", f"the datatype of {name} is one of {', '.join(accepted)}")
    # A column may be a list, or a list of lists of one value.
    data = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in tensor.data]
    if tensor.shape not in ([len(data)], [len(data), 1]):
        shapes = f"[{len(data)}] or [{len(data)}, 1]"
        raise InvalidRideError("ride", f"the data of {name} has {len(data)} values, so its shape is {shapes}")
    return data
