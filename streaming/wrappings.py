"""Data that was wrapped once too often on its way, such as in base64 before the SDK encoded it: what is inside."""

import binascii
import codecs
import string

import msgspec

from streaming.aggregation import is_aggregated

MAX_LAYERS = 4
MAX_BYTES = 1_048_576
"""Data that is larger than a stream takes by default is not searched, because each layer takes memory several times."""
GZIP = b"\x1f\x8b"
URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITESPACE = string.whitespace.encode()
BASE64 = (string.ascii_letters + string.digits + "+/-_=").encode()


def explain(data: bytes) -> str | None:
    """Return the reason why data could not be read as a ride, if it is wrapped; None if it is not."""
    if is_aggregated(data) or len(data) > MAX_BYTES:
        return None
    content = _content(data, MAX_LAYERS)
    if content in (None, "JSON"):
        return None
    return f"the data is {content}" if content == "gzip" else f"the data is {content}: encoded twice?"


def _content(data: bytes, layers: int) -> str | None:
    """Return what the data is, through at most this many layers; None if no producer would wrap it."""
    if is_aggregated(data):
        return "an aggregated record"
    if data.startswith(GZIP):
        return "gzip"
    data = data.strip().removeprefix(codecs.BOM_UTF8)
    if data.startswith((b"{", b"[")):
        return "JSON" if layers == MAX_LAYERS or _is_json(data) else None
    if layers and (inner := _decode_base64(data)):
        content = _content(inner, layers - 1)
        return content and f"base64 of {content}"
    try:
        text = msgspec.json.decode(data, type=str) if layers else ""
    except (ValueError, RecursionError):
        return None
    content = _content(text.encode(errors="replace"), layers - 1)
    return content and f"a JSON string that holds {content}"


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)  # builds nothing, however much the data holds
    except (ValueError, RecursionError):
        return False
    return True


def _decode_base64(data: bytes) -> bytes | None:
    """Return what base64 encodes, in lines or in the alphabet for URLs too; None for all other data."""
    joined = data.translate(None, WHITESPACE)
    if joined.translate(None, BASE64):
        return None
    text = joined.translate(URL_SAFE).rstrip(b"=")
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        return None
