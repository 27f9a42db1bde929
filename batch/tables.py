"""The two files of a month: predictions as parquet, and rejected rows as compressed lines of JSON."""

import gzip
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.manifests import Counts, ModelIdentity
from rides import RIDE_ID, RejectionKind
from settings import SettingsError
from targets import DURATION
from trip_cells import IS_TEXT, RIDE
from trips import usual_trips

DIFFERENCE = "diff"
"""The column of the error: the actual value minus the predicted one."""
MAX_REASONS = 50
"""A manifest counts this many reasons by themselves. A model may give a reason of its own for each ride."""
OTHER_REASONS = "other reasons"
_encoder = msgspec.json.Encoder(enc_hook=str)


RIDE_TYPES = {
    RIDE_ID: pa.string(),
    "pickup_datetime": pa.timestamp("us"),
    "PULocationID": pa.int64(),
    "DOLocationID": pa.int64(),
    "trip_distance": pa.float64(),
}
MODEL_TYPES = {"model_name": pa.string(), "model_version": pa.string()}
"""The columns of the predictions before and after the values."""
PARTITIONS = ("colour", "year", "month", "model")
"""Columns that readers make of the folders' names."""


def check_column(model: ModelIdentity) -> None:
    """Raise SettingsError if the predicted value's column cannot have its name."""
    others = (*RIDE_TYPES, model.actual_field, DIFFERENCE, *MODEL_TYPES, *PARTITIONS)
    # Many readers of tables ignore case.
    if model.field.lower() in (column.lower() for column in others):
        raise SettingsError(
            f"PREDICTION_FIELD is {model.field!r}, a column that predictions have already: choose another"
        )


def make_schema(model: ModelIdentity) -> Any:
    """Return the columns of the predictions."""
    values = dict.fromkeys((model.field, model.actual_field, DIFFERENCE), pa.float64())
    return pa.schema(RIDE_TYPES | values | MODEL_TYPES)


class Predictions:
    """The parquet file of predictions, which is written chunk by chunk."""

    def __init__(self, file: BinaryIO, model: ModelIdentity) -> None:
        """Take the open file, and the model that all rows name."""
        self.schema = make_schema(model)
        self._model = model
        # Columns whose values occur often in a row group, so that a dictionary of them saves space. Trying costs time.
        repeated = [*RIDE, model.actual_field, *MODEL_TYPES]
        self._writer = pq.ParquetWriter(file, self.schema, use_dictionary=repeated)

    def write(self, cells: Any, values: Sequence[float]) -> Any:
        """Write rows of ``TripChunk.cells``, each with an id, and their predicted values; return the written table."""
        predicted, actual = pa.array(values, pa.float64()), cells["actual"]
        columns = {
            **{name: cells[name] for name in (RIDE_ID, *RIDE)},
            "pickup_datetime": cells["pickup"],
            self._model.field: predicted,
            self._model.actual_field: actual,
            DIFFERENCE: pc.subtract(actual, predicted),
            "model_name": pa.repeat(self._model.name, len(cells)),
            "model_version": pa.repeat(self._model.version, len(cells)),
        }
        table = pa.table([columns[name] for name in self.schema.names], schema=self.schema)
        self._writer.write_table(table)
        return table

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()


class Rejections:
    """The file of rejected rows, which is written chunk by chunk. It has one line of JSON for each row."""

    def __init__(self, file: BinaryIO) -> None:
        """Take the open file."""
        # Without a time in it, the same rows give the same file.
        self._lines = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1)

    def write(self, raw: Any, rows: Sequence[int], ids: Sequence[str], reasons: Sequence["Reason"]) -> None:
        """Write rows of ``TripChunk.raw`` with their indices in the file, their ids, and the reasons."""
        cells = [_as_plain(column) for column in raw.columns]
        for row, ride_id, reason, *values in zip(rows, ids, reasons, *cells, strict=True):
            data = dict(zip(raw.column_names, values, strict=True))
            line = {"row": row, RIDE_ID: ride_id, "kind": reason.kind, "reason": reason.text, "data": data}
            self._lines.write(_encoder.encode(line) + b"\n")

    def close(self) -> None:
        """Complete the file."""
        self._lines.close()


class Reason(NamedTuple):
    """Why a row is rejected."""

    kind: RejectionKind
    text: str


class RunningCounts:
    """Counts the rows of a month, and adds up the errors of its predictions."""

    def __init__(self, model: ModelIdentity) -> None:
        """Begin with no rows. The model says which value and column the predictions are about."""
        self._model = model
        self._predicted = self._measured = 0
        self._reasons: Counter[str] = Counter()
        self._squares = self._absolutes = 0.0

    def add_predictions(self, table: Any) -> None:
        """Count rows that ``Predictions.write`` has returned."""
        self._predicted += len(table)
        needed = ["pickup_datetime", "trip_distance", self._model.field, self._model.actual_field, DIFFERENCE]
        errors = select_usual(table.select(needed), self._model)[DIFFERENCE].to_numpy()
        self._measured += len(errors)
        self._squares += float(errors @ errors)
        self._absolutes += float(abs(errors).sum())

    def add_rejections(self, reasons: Sequence[Reason]) -> None:
        """Count rejected rows."""
        for reason in reasons:
            is_known = reason.text in self._reasons or len(self._reasons) < MAX_REASONS
            self._reasons[reason.text if is_known else OTHER_REASONS] += 1

    def total(self) -> Counts:
        """Return the counts of all rows so far."""
        rejected = self._reasons.total()
        return Counts(
            rows=self._predicted + rejected,
            predicted=self._predicted,
            rejected=rejected,
            reasons=dict(self._reasons.most_common()),
            measured=self._measured,
            rmse=math.sqrt(self._squares / self._measured) if self._measured else None,
            mae=self._absolutes / self._measured if self._measured else None,
        )


def select_usual(table: Any, model: ModelIdentity) -> Any:
    """Return the rows of predictions that models are trained on and measured on.

    They have the predicted and the actual value in the columns "predicted" and "actual".
    """
    # Renamed at the same time, because PREDICTION_FIELD may be "actual".
    table = table.rename_columns({model.field: "predicted", model.actual_field: "actual"})
    # A target of the user's own has no range, but then the actual values are null, so that no row is selected.
    return table.filter(usual_trips(model.known_target or DURATION, "pickup_datetime"))


def _as_plain(column: Any) -> list[Any]:
    """Return the cells of any column as values that JSON has."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if any(is_text(column.type) for is_text in IS_TEXT):
        # As bytes, because the text of a broken file need not be UTF-8.
        return [value and value.decode(errors="replace") for value in column.cast(pa.large_binary()).to_pylist()]
    try:
        # Python's times have no nanoseconds and end in the year 9999.
        values: list[Any] = (column.cast(pa.string()) if pa.types.is_temporal(column.type) else column).to_pylist()
    except (pa.ArrowException, OverflowError, ValueError):
        # Such a time may be inside of another value, and a time zone may be unknown.
        texts = (str(column.slice(row, 1).to_string()) for row in range(len(column)))
        values = [text if cell.is_valid else None for cell, text in zip(column, texts, strict=True)]
    return values
