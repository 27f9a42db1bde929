"""Judging what the web service and the batch job have counted, and the page about it."""

import html
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from batch.manifests import MANIFEST, decode_manifest, encode_manifest
from batch.months import Month
from scripts import pythons
from scripts.sources.records import RideRecord
from tests.batch.jobs import score, settings
from tests.commands.conftest import Refuse, Run
from tests.commands.watching import draw, save_other, trips_of
from tests.tools import ROOT, failed, finish
from tests.trip_records import write
from tests.web.browser import NEEDS_BROWSER, Page, open_browser
from tests.web.servers import RunningService, serve

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.slow
JANUARY, FEBRUARY = Month("green", 2023, 1), Month("green", 2023, 2)
EVIDENTLY = ROOT / ".bench" / pythons.MONITORING / "made-of"
HOSTILE = "<script>document.title = 'taken'</script><img src=https:__example.com_x>"


def ask(service: RunningService, records: list[RideRecord]) -> None:
    """Let the service predict rides, and reject one."""
    rides = [
        {name: getattr(record.event.ride, name) for name in ("PULocationID", "DOLocationID", "trip_distance")}
        for record in records
        if record.event
    ]
    service.predict([*rides, {"PULocationID": 1}])


def test_two_scrapes_are_a_window_of_the_web_service(
    watched: str, drift: Run, refuse_drift: Refuse, tmp_path: Path
) -> None:
    """One text has all rides since the start; of two, the rides between them count. A URL is read as it is now."""
    earlier, later = tmp_path / "1.txt", tmp_path / "2.txt"
    with serve(MODEL_LOCATION=watched) as service:
        ask(service, draw(300, 20, factor=2))
        earlier.write_bytes(service.ask("GET", "/metrics")[1])
        ask(service, draw(400, 21))
        later.write_bytes(service.ask("GET", "/metrics")[1])
        url = f"http://127.0.0.1:{service.port}/metrics"
        code, found = drift("--metrics", str(earlier), url)
        assert (code, found["rides"], found["rejected"]) == (0, 400, 1)
    assert drift("--metrics", str(earlier), str(later))[1]["tests"] == found["tests"] != []
    code, found = drift("--metrics", str(earlier))
    assert (code, found["rides"]) == (1, 300)
    assert found["notes"][0].startswith("these are all rides since the service started")
    assert "give the earlier text first" in refuse_drift("--metrics", str(later), str(earlier))
    assert f"{url} cannot be read: " in refuse_drift("--metrics", url)
    earlier.write_text("up 1\n")
    assert "no metric counts rides in bins" in refuse_drift("--metrics", str(earlier))
    assert f"baseline {found['model']['baseline']}" in refuse_drift(
        "--metrics", str(later), model=save_other(watched, tmp_path / "other")
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, watched: str) -> Path:
    """Score a month of ordinary rides, and one whose rides from the busiest zone take twice as long."""
    folder = tmp_path_factory.mktemp("months")
    for month, seed in ((JANUARY, 30), (FEBRUARY, 31)):
        records = draw(1_000, seed)
        zones = [record.event.ride.PULocationID for record in records if record.event]
        slow = max(set(zones), key=zones.count) if month == FEBRUARY else None
        file = write(folder / month.file_name, [*trips_of(records, seed, slow), *trips_of(records[:1], seed, None)])
        score(file, folder / "output", settings(watched), month)
    return folder / "output"


def find_month(output: Path, month: Month) -> Path:
    """Return the folder of a month."""
    (folder,) = output.glob(f"*/*/month={month.month:02}/*")
    return folder


def test_a_months_counts_and_its_errors_are_judged(output: Path, watched: str, drift: Run) -> None:
    """Only the actual values show a zone whose rides take twice as long; the estimate of the errors is checked."""
    code, january = drift("--outputs", str(find_month(output, JANUARY)))
    assert (code, january["verdict"], january["rides"]) == (0, "no drift", 1_001)
    assert january["check"]["holds"]
    code, february = drift("--outputs", str(find_month(output, FEBRUARY)))
    assert code == 1
    assert [test for test in february["tests"] if test["excess"] > 1] == []
    worst = february["errors"][0]
    assert worst["name"] == "pickup_zone"
    assert worst["difference"] > 5
    assert f"rides from zone {worst['zone']} take" in february["sentences"][0]
    # The folder of a month, a year or a colour is enough.
    month, year, colour, _ = list(find_month(output, JANUARY).parents)[:4]
    found = [drift("--outputs", str(folder))[1]["rides"] for folder in (month, year, colour)]
    assert found == [1_001, 2_002, 2_002]
    # The months below a folder are added up, and a month that is named twice counts once.
    code, both = drift("--outputs", str(output), str(find_month(output, JANUARY)))
    assert (both["rides"], both["notes"]) == (2_002, ["2 months are added up"])


def test_the_rows_of_an_older_manifest_are_counted(output: Path, drift: Run) -> None:
    """The counts are those that the batch job would have noted."""
    folder = find_month(output, JANUARY)
    expected = drift("--outputs", str(folder))[1]
    manifest = folder / MANIFEST
    kept = manifest.read_bytes()
    try:
        manifest.write_bytes(encode_manifest(msgspec.structs.replace(decode_manifest(kept), ride_counts=msgspec.UNSET)))
        found = drift("--outputs", str(folder))[1]
    finally:
        manifest.write_bytes(kept)
    assert (found["tests"], found["rejected"]) == (expected["tests"], expected["rejected"])
    assert any("the rows were counted now" in note for note in found["notes"])


@pytest.mark.parametrize("named", ["model", "month", "output"])
def test_outputs_in_s3_are_found_as_in_a_folder(
    named: str, output: Path, drift: Run, s3: "S3Client", bucket: str
) -> None:
    """The URI is that of a month's model, of a month, or of the output with all months."""
    folder = find_month(output, JANUARY)
    key = f"out/{folder.relative_to(output)}"
    for file in folder.iterdir():
        s3.put_object(Bucket=bucket, Key=f"{key}/{file.name}", Body=file.read_bytes())
    uri = f"s3://{bucket}/{ {'model': key, 'month': key.rpartition('/')[0], 'output': 'out'}[named] }"
    assert drift("--outputs", uri)[1]["errors"] == drift("--outputs", str(folder))[1]["errors"]


def test_outputs_that_cannot_be_judged_are_one_line(
    output: Path, refuse_drift: Refuse, watched: str, tmp_path: Path, bucket: str
) -> None:
    """The error says what to do."""
    for nothing in (str(tmp_path), f"s3://{bucket}/none"):
        assert "name an output of the batch job" in refuse_drift("--outputs", nothing)
    month = find_month(output, JANUARY)
    done = finish("drift", "--outputs", str(month), "--model", watched, RUN_ID="another")
    assert "no month is scored by the version another (1 by other versions)" in failed(done)
    other = save_other(watched, tmp_path / "other")
    assert "the rides were counted with the baseline" in refuse_drift("--outputs", str(month), model=other)
    (tmp_path / MANIFEST).write_text("{")
    assert "missing or damaged: score the month again" in refuse_drift("--outputs", str(tmp_path))


@pytest.mark.skipif(not EVIDENTLY.exists(), reason="Evidently's packages, a gigabyte, are not installed")
def test_evidently_compares_the_rows_and_opens_no_connection(
    output: Path, watched: str, drift: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidently asks no proxy for a connection. Its page has the columns of the rides."""
    reference = write(tmp_path / JANUARY.file_name, trips_of(draw(500, 33), 33))
    page = tmp_path / "evidently.html"
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        month = str(find_month(output, JANUARY))
        drift("--outputs", month, "--evidently", str(page), "--reference", str(reference))
        with pytest.raises(BlockingIOError):
            proxy.accept()
    text = page.read_text()
    assert all(name in text for name in ("PULocationID", "trip_distance", "prediction", "target"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """Run a browser."""
    with open_browser() as page:
        yield page


@NEEDS_BROWSER
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_the_page_shows_the_verdict_and_every_histogram(
    width: int, scheme: str, output: Path, drift: Run, browser: Page, tmp_path: Path
) -> None:
    """The page loads nothing, runs no script, escapes text from outside, and fits a phone."""
    hostile = tmp_path / HOSTILE.replace("/", "_")
    hostile.symlink_to(output)
    page = tmp_path / "report.html"
    code, found = drift("--outputs", str(hostile), "--report", str(page))
    assert code == 1
    text = page.read_text()
    assert html.escape(hostile.name) in text
    assert hostile.name not in text
    browser.requested.clear()
    browser.complaints.clear()
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page.as_uri(), width)
    assert browser.read("document.querySelector('h1').textContent") == "Drift"
    assert browser.requested == [page.as_uri()]
    assert browser.complaints == []
    assert browser.read("document.documentElement.scrollWidth") <= width
    tests = browser.read("[...document.querySelectorAll('tbody')][0].rows.length")
    assert tests == len(found["tests"])
    tiles = browser.read("document.body.textContent")
    assert f"{found['check']['estimate']['mae']:.3f}" in tiles
    titles = browser.read("[...document.querySelectorAll('figure h3')].map(one => one.textContent).join()")
    assert titles.count(",") + 1 == len([test for test in found["tests"] if test["place"]])
    for sentence in found["sentences"]:
        assert sentence[1:] in browser.read("document.querySelector('ul').textContent")
    colours = "const [body, text] = [document.body, document.querySelector('svg text')].map(getComputedStyle);"
    fill = browser.read(f"(() => {{ {colours} return body.backgroundColor + '/' + text.fill }})()")
    background, ink = (sum(map(int, re.findall(r"\d+", one)[:3])) for one in fill.split("/"))
    assert abs(background - ink) > 300, "the text of plots can be read"
