"""Scoring a file: chunks of its rows become predictions or rejected rows, with one call of the model for each chunk."""

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artifacts import ModelError
from batch.manifests import Counts, ModelIdentity
from batch.tables import Predictions, Reason, Rejections, RunningCounts
from model import Model
from ride_counts import Counter, RideCounts
from rides import RIDE_ID, Ride, RideEvent, encodable
from trip_cells import RIDE
from trips import TripChunk, TripFile, to_datetimes

CHUNK_ROWS = 32_768
"""The rows that are in memory at once, and in a row group of the predictions. With half as many or twice as many, a
month takes as long or longer."""
HEXADECIMAL = np.frombuffer(b"0123456789abcdef", np.uint8)
DIGIT_SHIFTS = np.arange(44, -1, -4)
"""By how many bits a row's index is shifted for each of its twelve digits."""


def score_file(
    trips: TripFile,
    sha256: str,
    model: Model,
    identity: ModelIdentity,
    outputs: tuple[BinaryIO, BinaryIO],
    advance: Callable[[int, int], None],
) -> tuple[Counts, dict[str, str], RideCounts | None]:
    """Write the predictions and the rejected rows of a file.

    Args:
        trips: the file.
        sha256: the file's digest, from which ids are made for rows that have none.
        model: predicts the rides.
        identity: the model that the predictions name.
        outputs: open files for the predictions and for the rejected rows.
        advance: called after each chunk with its rows, and with the rows of the whole file.

    Returns the counts, the types of the predictions' columns, and the counts in the bins of the model's baseline, if it
    has one. Raises TripRecordError if the file is damaged, and ModelError if the model runs out of memory.
    """
    counts, counter = RunningCounts(identity), Counter(model.bins) if model.bins else None
    # Closed even if a chunk fails: otherwise pyarrow would do it later, in a file that is closed by then.
    with closing(Predictions(outputs[0], identity)) as predictions, closing(Rejections(outputs[1])) as rejections:
        for chunk in trips.chunks(CHUNK_ROWS):
            ids = complete_ids(chunk, sha256)
            values, reasons = predict(chunk, ids, model, counter)
            cells = chunk.cells.set_column(chunk.cells.schema.get_field_index(RIDE_ID), RIDE_ID, ids)
            counts.add_predictions(predictions.write(cells.take(_indices(values)), list(values.values())))
            rows, raw = [chunk.first_row + row for row in reasons], chunk.raw.take(_indices(reasons))
            rejections.write(raw, rows, ids.take(_indices(reasons)).to_pylist(), list(reasons.values()))
            counts.add_rejections(list(reasons.values()))
            advance(len(chunk.raw), trips.rows)
        columns = {field.name: str(field.type) for field in predictions.schema}
    total = counts.total()
    if counter:
        counter.rejected = total.rejected
    return total, columns, counter.total() if counter else None


def complete_ids(chunk: TripChunk, sha256: str) -> Any:
    """Return the ids of a chunk's rows: the file's own, or else a UUID (RFC 9562, version 8).

    The UUID consists of the file's digest and the row's index in the file, which is its last twelve digits.
    """
    own = chunk.cells[RIDE_ID].combine_chunks()
    if own.null_count == 0:
        return own
    return pc.coalesce(own, _make_ids(sha256, chunk.first_row, len(own)))


def _make_ids(sha256: str, first_row: int, rows: int) -> Any:
    # The digits of all rows at once, because one Python string for each row takes six times as long.
    start = f"{sha256[:8]}-{sha256[8:12]}-8{sha256[12:15]}-8{sha256[15:18]}-".encode()
    text = np.empty((rows, len(start) + len(DIGIT_SHIFTS)), np.uint8)
    text[:, : len(start)] = np.frombuffer(start, np.uint8)
    indices = np.arange(first_row, first_row + rows)
    text[:, len(start) :] = HEXADECIMAL[indices[:, np.newaxis] >> DIGIT_SHIFTS & 15]
    ends = np.arange(0, text.size + 1, text.shape[1], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(ends), pa.py_buffer(text)])


def predict(
    chunk: TripChunk, ids: Any, model: Model, counter: Counter | None
) -> tuple[dict[int, float], dict[int, Reason]]:
    """Return the predicted values of a chunk's rows, and the reasons of the rejected rows, by the row's index.

    The ``counter`` counts the predicted rides. Raises ModelError if the model runs out of memory.
    """
    values: dict[int, float] = {}
    reasons: dict[int, Reason] = {}
    for rows, rides in _split_rides(chunk, model.metadata.wants_time):
        try:
            outcomes = model.predict(rides, counter=counter)
        except MemoryError as error:
            raise ModelError(
                f"the model ran out of memory with {len(rides):,} rides: give the job more memory"
            ) from error
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, float):
                values[row] = outcome
            else:
                reasons[row] = Reason("prediction", encodable(str(outcome)))
    invalid = pc.indices_nonzero(pc.invert(chunk.is_valid))
    rides = chunk.cells.select(RIDE).take(invalid).to_pylist()
    for row, ride, ride_id in zip(invalid.to_pylist(), rides, ids.take(invalid).to_pylist(), strict=True):
        reasons[row] = explain(ride, ride_id)
    return values, dict(sorted(reasons.items()))


def _split_rides(chunk: TripChunk, wants_time: bool) -> Iterator[tuple[list[int], list[Ride]]]:
    """Yield the rows that the contract accepts, and their rides.

    For a model that wants the time, the rides without a pickup are apart: a call with one of them fails for all.
    """
    if not wants_time:
        rows, columns = _take(chunk, chunk.is_valid)
        yield rows.to_pylist(), list(map(Ride, *columns))
        return
    has_time = chunk.cells["local"].is_valid()
    for is_chosen in (has_time, pc.invert(has_time)):
        rows, columns = _take(chunk, pc.and_(chunk.is_valid, is_chosen))
        yield rows.to_pylist(), list(map(Ride, *columns, to_datetimes(chunk.cells["local"].take(rows))))


def _take(chunk: TripChunk, is_chosen: Any) -> tuple[Any, list[list[Any]]]:
    """Return the indices of the chosen rows, and their zones and distances. numpy converts them faster than pyarrow."""
    rows = pc.indices_nonzero(is_chosen)
    return rows, [chunk.cells[name].take(rows).to_numpy().tolist() for name in RIDE]


def explain(ride: dict[str, Any], ride_id: str) -> Reason:
    """Return why the contract refuses a ride, as the stream would say it."""
    try:
        msgspec.convert({"ride": ride, RIDE_ID: ride_id}, RideEvent)
    except msgspec.ValidationError as error:
        return Reason("ride", str(error))
    raise AssertionError(f"a valid ride was rejected: {ride}")


def _indices(rows: Collection[int]) -> Any:
    # The type is given, because pyarrow cannot infer it if there are no rows.
    return pa.array(rows, pa.int64())
