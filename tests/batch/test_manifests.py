"""Manifests: their format is the documented one, and a damaged one is recognized."""

import re

import msgspec
import pytest

from batch.manifests import DamagedManifestError, Manifest, OutputFile, decode_manifest, encode_manifest
from batch.tables import make_schema
from tests.tools import ROOT

PAGE = (ROOT / "docs" / "formats.md").read_text()
OUTPUT = PAGE.partition("\n## The batch job: output\n")[2].partition("\n## ")[0]
EXAMPLE = re.findall(r"^```json\n(.*?)^```", OUTPUT, re.MULTILINE | re.DOTALL)[-1].encode()


def first_columns(heading: str) -> list[str]:
    """Return the names in the first column of the table under a heading."""
    text = OUTPUT.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return [name for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall("`(.+?)`", cell)]


def fields(kind: type, start: str = "") -> list[str]:
    """Return the names of a struct's fields, and of the fields of structs in it."""
    names = []
    for field in msgspec.structs.fields(kind):
        is_struct = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        names += fields(field.type, f"{start}{field.name}.") if is_struct else [start + field.name]
    return names


def test_the_documented_fields_are_those_of_the_manifest() -> None:
    """They are in the same order."""
    assert first_columns("The manifest") == fields(Manifest)


def test_the_documented_columns_are_those_of_the_predictions() -> None:
    """The manifest notes the same types."""
    manifest = decode_manifest(EXAMPLE)
    columns = {field.name: str(field.type) for field in make_schema(manifest.model)}
    assert first_columns("Predictions") == list(columns)
    assert manifest.columns == columns


def test_the_documented_manifest_is_written_as_it_is_shown() -> None:
    """Nothing is lost when it is read."""
    manifest = decode_manifest(EXAMPLE)
    assert encode_manifest(manifest) == EXAMPLE
    assert manifest.names == {file.name for file in (manifest.predictions, manifest.rejections)}
    assert all(isinstance(file, OutputFile) and file.name in OUTPUT.partition("###")[0] for file in manifest.files)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        EXAMPLE[:-3],
        EXAMPLE.replace(b"green", b"\xff"),
        EXAMPLE.replace(b"sha256", b"sha1"),
    ],
    ids=["empty", "not text", "null", "a list", "cut off", "not UTF-8", "another field"],
)
def test_a_damaged_manifest_is_recognized(content: bytes) -> None:
    """It is an error of its own kind, however it is damaged."""
    with pytest.raises(DamagedManifestError):
        decode_manifest(content)
