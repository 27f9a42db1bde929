"""The report of ./scripts/score: its numbers, the page in a browser, and months that have little to show."""

import datetime
import html
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from batch import scoring
from batch.manifests import Counts, InputIdentity, Manifest, ModelIdentity, OutputFile
from batch.months import Month
from batch.places import open_place
from batch.tables import make_schema
from batch_job import Job, score_month
from scripts.cli import CommandError
from scripts.scoring.page import make_page
from scripts.scoring.report import write_report
from scripts.scoring.sums import MILES, ValueSums, read_sums
from settings import ModelSettings
from tests.conftest import SAMPLE_MODEL
from tests.tools import ROOT, failed, finish
from tests.trip_records import trip, write
from tests.web.browser import NEEDS_BROWSER, Page, open_browser

pytestmark = pytest.mark.slow
HOSTILE = "<script>document.title = 'taken'</script><img src=https://example.com/x>"
VERSION = "a/run"
FIELD = "actual"
"""A name for the predicted value's column that pyarrow's filters use for something else."""
MODEL = ModelIdentity("m", "1", "m", FIELD)
MONTHS = [Month("green", 2023, 1), Month("green", 2023, 2)]
ZONES = (7, 74, 75, 105, 264, 265, 9999)
USUAL = "actual_duration BETWEEN 1 AND 60 AND trip_distance > 0 AND trip_distance <= 100"


def random_trips(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Build trips of few zones at all hours: usual ones, long ones, and some that the contract refuses."""
    draw = random.Random(seed)  # noqa: S311  the same trips every time, no secret
    for _ in range(number):
        pickup = datetime.datetime(2023, 2, 1) + datetime.timedelta(minutes=draw.randrange(28 * 1440))
        minutes = draw.choice([draw.uniform(1, 60), draw.uniform(-5, 90), 1380])
        yield trip(
            pickup=pickup,
            dropoff=pickup + datetime.timedelta(minutes=minutes),
            PULocationID=draw.choice(ZONES),
            DOLocationID=draw.choice(ZONES[:4]),
            trip_distance=draw.choice([0.0, 120.0, *(draw.uniform(0, 25) for _ in range(8))]),
        )


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Score two months, by a model whose name is an attack, and give the folder of the output."""
    folder = tmp_path_factory.mktemp("scored")
    for month in MONTHS:
        write(folder / month.file_name, random_trips(3000, seed=month.month))
    score(folder, str(folder / "output"))
    return folder / "output"


def score(folder: Path, output: str) -> None:
    """Score both months into files of several row groups."""
    variables = {"MODEL_LOCATION": SAMPLE_MODEL, "MODEL_NAME": HOSTILE, "RUN_ID": VERSION}
    settings = ModelSettings.from_environment(variables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "CHUNK_ROWS", 1000)
        for month in MONTHS:
            score_month(Job(month, f"{folder}/", output), settings)


@pytest.fixture(scope="module")
def report(output: Path) -> Path:
    """Write the report about both months and about a month that is not scored, and give its file."""
    file = output.parent / "report.html"
    write_report(str(file), [*MONTHS, Month("green", 2023, 3)], MONTHS, str(output), VERSION)
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """Run the browser for the tests of this module."""
    with open_browser() as page:
        yield page


def query(output: Path, selection: str) -> list[tuple[Any, ...]]:
    """Return the rows of a selection from the table ``trips``, the predictions of all months."""
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW trips AS FROM read_parquet('{output}/**/*.parquet')")
        return connection.execute(selection).fetchall()


def rows_of(page: str, label: str) -> list[list[str]]:
    """Return the cells of the table with this label."""
    found = re.search(rf'aria-label="{label}".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert found
    rows = re.findall("<tr>(.*?)</tr>", found[1].replace("<wbr>", ""))
    return [[html.unescape(cell) for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def tiles_of(page: str) -> dict[str, str]:
    """Return the large numbers by their names."""
    return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page))


def number(text: str) -> float:
    """Return the number that a cell shows."""
    return float(text.replace(",", "").replace("−", "-"))


def test_the_numbers_of_the_page_are_those_of_the_predictions(output: Path, report: Path) -> None:
    """DuckDB finds the same numbers in the files as the report, and the manifests have them too."""
    page = report.read_text()
    averages = "SELECT count(*), sqrt(avg(diff ** 2)), avg(abs(diff)), avg(diff) FROM trips WHERE"
    ((rides, rmse, mae, error),) = query(output, f"{averages} {USUAL}")
    ((predicted,),) = query(output, "SELECT count(*) FROM trips")
    assert tiles_of(page) == {
        "Rows": "6,000",
        "Predicted": f"{predicted:,}",
        "Left out": f"{6000 - predicted:,}",
        "Usual rides": f"{rides:,}",
        "RMSE, minutes": f"{rmse:.3f}",
        "MAE, minutes": f"{mae:.3f}",
        "Mean error, minutes": f"{error:.3f}".replace("-", "−"),
    }
    manifests = [open_place(str(output), month.place(VERSION)).read_manifest() for month in MONTHS]
    shown = [(row[0], *map(number, row[1:])) for row in rows_of(page, "Months")]
    assert shown == [
        (
            f"2023-{manifest.month:02}, {manifest.input.location}",
            *(counts.rows, counts.predicted, counts.rejected, counts.measured),
            *(pytest.approx(counts.rmse, abs=0.0005), pytest.approx(counts.mae, abs=0.0005)),
        )
        for manifest in manifests
        if manifest
        for counts in [manifest.counts]
    ]
    (reason,) = rows_of(page, "Rows left out")
    assert reason == ["Expected `float` <= 100.0 - at `$.ride.trip_distance`", f"{6000 - predicted:,}"]
    assert "Not scored, and not in this report: 2023-03" in page


def test_the_pairs_with_the_largest_errors_are_those_of_the_predictions(output: Path, report: Path) -> None:
    """Pairs with few rides are not shown, and numbers that are no zones count as one zone."""
    zone = "CASE WHEN {0} BETWEEN 1 AND 265 THEN {0} ELSE 0 END".format
    expected = query(
        output,
        f"SELECT {zone('PULocationID')} pickup, {zone('DOLocationID')} dropoff, count(*), avg(actual_duration),"  # noqa: S608
        f" avg(predicted_duration), avg(diff), sqrt(avg(diff ** 2)) rmse FROM trips WHERE {USUAL} GROUP BY 1, 2"
        " HAVING count(*) >= 30 ORDER BY rmse DESC LIMIT 20",
    )
    shown = rows_of(report.read_text(), "Pairs of zones")
    assert len(shown) == 20
    for (names, *cells), (pickup, dropoff, *numbers) in zip(shown, expected, strict=True):
        start, end = names.split(" to ")
        assert (f"({pickup})" in start) if pickup else (start == "Numbers that are no zones")
        assert f"({dropoff})" in end
        assert list(map(number, cells)) == [pytest.approx(value, abs=0.0501) for value in numbers]
    assert {names.split(" to ")[0] for names, *_ in shown} >= {"Outside New York City (265)", "Unknown (264)"}


@pytest.mark.parametrize(
    ("attribute", "key"),
    [
        ("hours", "hour(pickup_datetime)"),
        ("pickups", "CASE WHEN PULocationID BETWEEN 1 AND 265 THEN PULocationID ELSE 0 END"),
        ("distances", " + ".join(f"(trip_distance >= {start})::INT" for start in MILES[1:])),
    ],
)
def test_the_plotted_errors_are_those_of_the_predictions(output: Path, attribute: str, key: str) -> None:
    """All row groups of all months count."""
    places = [open_place(str(output), month.place(VERSION)) for month in MONTHS]
    sums = read_sums([(place, manifest) for place in places if (manifest := place.read_manifest())])
    groups = getattr(sums, attribute)
    found = {
        int(group): (int(groups.rides[group]), groups.errors[group], groups.rmse[group])
        for group in np.flatnonzero(groups.rides)
    }
    averages = "count(*), avg(diff), sqrt(avg(diff ** 2)) FROM trips WHERE"
    expected = query(output, f"SELECT {key}, {averages} {USUAL} GROUP BY 1")
    assert found == {group: pytest.approx(tuple(numbers)) for group, *numbers in expected}
    minutes = "SELECT least(floor(actual_duration), 59), floor(predicted_duration), count(*) FROM trips"
    cells = {(int(a), int(p)): n for a, p, n in query(output, f"{minutes} WHERE {USUAL} GROUP BY 1, 2") if p < 60}
    plotted = sums.usual[1:-1, 1:-1]
    assert {(int(a), int(p)): int(plotted[a, p]) for a, p in np.argwhere(plotted)} == cells
    assert int(sums.usual.sum()) == int(sums.all.rides[0])


def test_the_report_of_a_bucket_is_the_same(output: Path, report: Path, bucket: str, tmp_path: Path) -> None:
    """Nothing in the page depends on when it was written, or where the predictions lie."""
    score(output.parent, f"s3://{bucket}/scored")
    file = tmp_path / "report.html"
    write_report(str(file), [*MONTHS, Month("green", 2023, 3)], MONTHS, f"s3://{bucket}/scored", VERSION)
    assert file.read_bytes() == report.read_bytes()


def test_the_page_refers_to_nothing_outside_itself(report: Path) -> None:
    """There is no script, no link and no file that it loads, and a name is text even if it looks like a tag."""
    page = report.read_text()
    assert page.count(html.escape(HOSTILE)) == 1
    rest = page.replace(html.escape(HOSTILE), "")
    assert re.findall(r"https?:|<script|<link|@import|\bon\w+=|<!DOCTYPE svg", rest) == []
    references = re.findall(r"(?:href|src)=\"([^\"]*)|url\(([^)]*)", rest)
    assert {re.split("[#,]", "".join(found))[0] for found in references} == {"", "data:image/png;base64"}
    ids = re.findall(r'\bid="([^"]+)"', rest)
    assert {"".join(found)[1:] for found in references if "#" in "".join(found)} <= set(ids)
    assert "nan" not in re.sub('base64,[^"]*', "", rest).lower()


@NEEDS_BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_whole_in_a_browser(report: Path, browser: Page, width: int, scheme: str) -> None:
    """It fits a desktop and a phone, all its images are drawn, no two texts of a plot overlap, nothing is fetched."""
    browser.open("about:blank")
    browser.requested.clear()
    browser.complaints.clear()
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(report.as_uri(), width)
    assert browser.read("document.documentElement.scrollWidth") <= width
    assert browser.read("document.title") == "Green taxis, January 2023 to February 2023"
    assert browser.read("document.querySelectorAll('figure svg[role=img][aria-label]').length") == 5
    # Decoded once more, because an image of SVG does not tell its size.
    images = "[...document.querySelectorAll('image')].map((image) => image.href.baseVal)"
    browser.read(f"window.copies = {images}.map((src) => Object.assign(new Image(), {{src}})); copies.length")
    browser.wait_for("copies.length == 2 && copies.every((copy) => copy.complete && copy.naturalWidth)")
    assert [url for url in browser.requested if not url.startswith((report.as_uri(), "data:"))] == []
    assert browser.complaints == []
    assert browser.read(OVERLAPS) == []


OVERLAPS = """
[...document.querySelectorAll("svg")].flatMap((svg) => {
  const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([one, a], at) => texts.slice(at + 1)
    .filter(([_, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
    .map(([other]) => `${one} / ${other}`));
})
"""
"""The pairs of texts of a plot that overlap. A line of text is a few pixels higher than its letters."""


def ride(predicted: float, actual: float | None, **changes: object) -> dict[str, object]:
    """Build a row of the predictions."""
    usual = {"pickup_datetime": datetime.datetime(2023, 2, 1, 23), "PULocationID": 74, "DOLocationID": 75}
    error = None if actual is None else actual - predicted
    durations = {FIELD: predicted, "actual_duration": actual, "diff": error}
    return {"ride_id": "1", "trip_distance": 2.0, "model_name": "m", "model_version": "1"} | usual | durations | changes


def manifest(month: int = 2, name: str = "m", predicted: int = 0, rejected: int = 0) -> Manifest:
    """Build a manifest, of which the report shows these numbers."""
    counts = Counts(predicted + rejected, predicted, rejected, {"too far": rejected} if rejected else {})
    files = OutputFile("part-0.parquet", 1, ""), OutputFile("_rejected-0.jsonl.gz", 1, "")
    source, model = InputIdentity(f"{month}.parquet", "", 1, ""), ModelIdentity(name, "1", name, FIELD)
    return Manifest("green", 2023, month, source, model, counts, *files, {}, {}, "")


@pytest.mark.parametrize(
    ("rows", "expected", "plots"),
    [
        ([], ["No ride was predicted.", "too far"], 0),
        ([ride(9, None)] * 2, ["the errors are not known", "<dd>not known</dd>"], 1),
        ([ride(9, 1380.0)], ["the errors are not known"], 1),
        ([ride(9, 10.0)], ["<dd>1.000</dd>", "No pair of zones has 30 usual rides.", "1 of 1,"], 5),
        ([ride(9, 9.0)] * 30, ["<dd>0.000</dd>", "East Harlem North (74) to East Harlem South (75)"], 5),
        ([ride(9 + 1e-9, 9.0)] * 30, ['<td class="number">0.0</td>'], 5),
        ([ride(1e300, 9.0), ride(-4, 60.0), ride(60, 60.0)], ["Predictions outside 0 to 60 minutes: 2."], 5),
        ([ride(9, 12.0, PULocationID=2**31 - 1, DOLocationID=0)] * 30, ["no zones to Numbers that are no zones<"], 5),
        ([ride(9, 12.0, PULocationID=zone) for zone in range(1, 264)], ["12 of 263,"], 5),
    ],
    ids=[
        *("no prediction", "no durations", "no usual ride", "one row", "no error", "rounded to zero"),
        *("far outside", "no zones", "all zones"),
    ],
)
def test_months_with_little_or_odd_content_have_a_page(
    rows: list[dict[str, object]], expected: list[str], plots: int
) -> None:
    """What is not known is said in words, and never shown as NaN."""
    sums = ValueSums(MODEL)
    schema = make_schema(MODEL)
    sums.add(pa.Table.from_pylist([{"ride_id": "1"} | row for row in rows], schema=schema), MODEL)
    page = make_page([manifest(predicted=len(rows), rejected=2)], [], sums)
    assert [text for text in expected if text.lower() not in page.lower()] == []
    assert page.count("<svg") == plots
    assert "nan" not in re.sub('base64,[^"]*', "", page).lower()


def test_months_of_two_models_say_which_is_whose() -> None:
    """Two models can have the same version, if somebody sets it by RUN_ID."""
    page = make_page([manifest(1, "ridge"), manifest(2, "forest")], [], ValueSums(MODEL))
    assert [row[0] for row in rows_of(page, "Months")] == [
        "2023-01, 1.parquet, by ridge (ridge)",
        "2023-02, 2.parquet, by forest (forest)",
    ]
    for name in ("ridge", "forest"):
        assert f"<p>Ride durations predicted by {name}, version 1</p>" in page


def test_a_damaged_file_of_predictions_is_named(output: Path, tmp_path: Path) -> None:
    """The error says which file cannot be read."""
    place = open_place(str(tmp_path), MONTHS[0].place(VERSION))
    found = open_place(str(output), MONTHS[0].place(VERSION)).read_manifest()
    assert found
    Path(place.location).mkdir(parents=True)
    Path(place.location, found.predictions.name).write_bytes(b"PAR1")
    with pytest.raises(CommandError, match=f"{found.predictions.name}: cannot be read as predictions: "):
        read_sums([(place, found)])


def test_a_month_that_was_done_before_gets_its_report(tmp_path: Path) -> None:
    """The report is about the predictions that are there, whichever run has written them."""
    write(tmp_path / MONTHS[1].file_name, [trip()])
    month = ["green", "2023", "2", f"--input={tmp_path}/"]
    for options in ([], ["--report=first.html"]):
        done = finish("score", *month, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "was done before" in done.stderr
    planned = ["green", "--from=2023-01", "--to=2023-02", "--plan", f"--input={tmp_path}/", "--report=second.html"]
    assert finish("score", *planned, cwd=tmp_path).returncode == 0
    first, second = ((tmp_path / name).read_text() for name in ("first.html", "second.html"))
    assert tiles_of(first)["Rows"] == "1"
    assert second.replace("<p>Not scored, and not in this report: 2023-01</p>\n", "") == first


def test_a_report_that_cannot_be_written_is_an_error_before_anything_is_scored(tmp_path: Path) -> None:
    """The error is one line, and it does not come after minutes."""
    done = finish("score", "green", "2023", "2", "--report=none/report.html", cwd=tmp_path)
    assert failed(done) == "score: none/report.html cannot be written: No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_no_empty_report_is_left_if_nothing_is_scored(tmp_path: Path) -> None:
    """A file that was there keeps its content."""
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "link.html").symlink_to("new.html")
    for name in ("report.html", "old.html", "link.html"):
        done = finish("score", "green", "2023", "2", "--input=none.parquet", f"--report={name}", cwd=tmp_path)
        assert done.stderr.splitlines()[-1] == "score: none.parquet: there is no such file"
    assert {path.name for path in tmp_path.iterdir()} == {"old.html", "link.html"}
    assert (tmp_path / "old.html").read_text() == "old"


def test_a_report_about_nothing_is_an_error(tmp_path: Path) -> None:
    """The message says how a month is scored."""
    with pytest.raises(CommandError, match="because no month is scored: --run scores months"):
        write_report(str(tmp_path / "report.html"), MONTHS, [], str(tmp_path), VERSION)


def test_without_a_report_matplotlib_is_not_imported() -> None:
    """It takes a second, and much memory."""
    code = "import scripts.commands.score, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
