"""The report about months that are scored: reads their manifests and predictions, and writes one page."""

from collections.abc import Collection, Sequence

from batch.months import Month
from batch.places import open_place
from scripts import cli
from scripts.cli import CommandError
from scripts.scoring.page import make_page
from scripts.scoring.sums import read_sums


def write_report(file: str, asked: Sequence[Month], done: Collection[Month], output: str, version: str) -> None:
    """Write the report.

    Args:
        file: the page's file.
        asked: the months that the user asked for, in order of time.
        done: the months that are scored.
        output: the folder or ``s3://`` URI below which all months lie.
        version: the model's version.

    Raises CommandError or OutputError if there is nothing to report, or if a file cannot be read or written.
    """
    found = [
        (place, manifest)
        for month in asked
        if month in done and (manifest := (place := open_place(output, month.place(version))).read_manifest())
    ]
    if not found:
        raise CommandError(f"{file}: there is nothing to report, because no month is scored: --run scores months")
    reported = {Month(manifest.colour, manifest.year, manifest.month) for _, manifest in found}
    left_out = [str(month) for month in asked if month not in reported]
    cli.write(file, make_page([manifest for _, manifest in found], left_out, read_sums(found)))
