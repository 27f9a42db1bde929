"""Writing a served form to a file, and reading it from the file with all checks that its use needs."""

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from served.arrays import Arrays, FormError, read_file, write_file
from served.columns import MAX_COLUMNS, ColumnDescription, read_column
from served.linear import Linear
from served.tables import Table
from served.trees import Trees

FLAVOR = "served_form"
"""The name of the flavor in an MLmodel file."""
FORMAT = 1
"""The version of the format. A reader refuses every other version."""
KINDS = {form.kind: form for form in (Linear, Table, Trees)}

Form: TypeAlias = Linear | Table | Trees
"""Takes a list of rides' features, as ``features.prepare_features`` makes them, and returns a double for each."""


class _Description(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    kind: str
    columns: list[ColumnDescription]


def write_form(form: Form) -> bytes:
    """Return the content of the file that ``read_form`` reads."""
    description = _Description(FORMAT, form.kind, [column.describe() for column in form.columns])
    arrays: dict[str, Any] = form.arrays()
    for number, column in enumerate(form.columns):
        arrays |= column.arrays(number)
    return write_file(msgspec.json.encode(description), arrays)


def read_form(content: bytes) -> Form:
    """Return the form in a file's content. Raises FormError if it is not a form, or if its use could do harm."""
    text, found = read_file(content)
    try:
        description = msgspec.json.decode(text, type=_Description)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormError(f"its description is not valid: {error}") from error
    if description.format != FORMAT:
        raise FormError(f"its format is {description.format} and here only {FORMAT} is known: update this service")
    if description.kind not in KINDS or not 0 < len(description.columns) <= MAX_COLUMNS:
        raise FormError(f"the kind {description.kind!r} with {len(description.columns)} columns is not known here")
    arrays = Arrays(found)
    columns = [read_column(column, number, arrays) for number, column in enumerate(description.columns)]
    form = KINDS[description.kind].read(columns, arrays)
    arrays.check_all_taken()
    return form
