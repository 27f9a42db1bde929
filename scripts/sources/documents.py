"""JSON documents in a file or in stdin: one on each line, one after another, or in an array, in UTF-8 or UTF-16."""

import codecs
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.cli import CommandError

STDIN = "-"

# The text of a document is used and not its value, so numbers need not be converted. Converting an integer of more than
# 4,300 digits would raise an error.
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)
# If `cat` joined files, there may be a byte order mark between two documents.
_SPACE = re.compile("[ \t\r\n\ufeff]*")
_REST_OF_LINE = re.compile("[ \t\r\ufeff]*(\n|$)")


def read_documents(name: str, *, raw: bool = False) -> list[bytes]:
    """Return the JSON documents in a file, or in stdin for ``STDIN``, each as its producer wrote it, in UTF-8.

    If an array is empty or has an object, its elements are documents of their own. NaN and Infinity count as JSON,
    because Python's ``json.dumps`` writes them. With ``raw``, each line that is not blank is returned as it is if the
    file is not JSON.

    Raises:
        CommandError: if the file cannot be read, or is not JSON. The message has the line and the column.
    """
    try:
        content = _read_stdin() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
    try:
        return [document.encode() for document in _documents(_decode(content))]
    except json.JSONDecodeError as error:
        if raw:
            return [line.strip() for line in content.split(b"\n") if line.strip()]
        place = f"{display_name(name)}, line {error.lineno}, column {error.colno}"
        raise CommandError(
            f"{place}: this is not JSON ({error.msg}), so nothing was put. Correct it, or put each line as it is, good"
            " or bad, with --raw"
        ) from error


def _read_stdin() -> bytes:
    # sys.stdin is None if the process was started with a closed stdin.
    return sys.stdin.buffer.read() if sys.stdin else b""


def display_name(name: str) -> str:
    """Return a file's name for messages."""
    return "stdin" if name == STDIN else name


def _decode(content: bytes) -> str:
    """Return the text of a file, with the encoding that ``json.loads`` would detect. Raises JSONDecodeError."""
    content = content.removeprefix(codecs.BOM_UTF8)
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        good = content[: error.start].decode(encoding, errors="ignore")
        reason = f"not {encoding.upper()}: {error.reason}"
        raise json.JSONDecodeError(reason, good, len(good)) from error


def _documents(text: str) -> Iterator[str]:
    """Yield the documents of a text. Raises JSONDecodeError."""
    place = _skip_space(text, 0)
    while place < len(text):
        value, end = _parse(text, place)
        if not isinstance(value, dict | list):
            # Only a scalar alone on its line is a document: otherwise "130 205 3.66" would be three documents.
            if _skip_space(text, text.rfind("\n", 0, place) + 1) != place:
                raise json.JSONDecodeError("Extra data", text, place)
            if not _REST_OF_LINE.match(text, end):
                raise json.JSONDecodeError("Extra data", text, end)
        if isinstance(value, list) and (not value or any(isinstance(element, dict) for element in value)):
            yield from _elements(text, place)
        else:
            yield text[place:end]
        place = _skip_space(text, end)


def _elements(text: str, place: int) -> Iterator[str]:
    """Yield the elements of the array at ``place``, which has been parsed before."""
    while text[place] != "]":
        start = _skip_space(text, place + 1)
        if text[start] == "]":
            return
        _, end = _parse(text, start)
        yield text[start:end]
        place = _skip_space(text, end)


def _parse(text: str, place: int) -> tuple[object, int]:
    try:
        return _decoder.raw_decode(text, place)
    except RecursionError as error:
        raise json.JSONDecodeError("the value that begins here is nested too deeply", text, place) from error


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place
