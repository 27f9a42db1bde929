"""The pages: the form and the document's page, as a person sees them in a browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import copy_saying
from tests.web.browser import NEEDS_BROWSER, Page, open_browser
from tests.web.servers import HOST, RunningService, serve
from web.pages import STATIC

pytestmark = pytest.mark.slow
ZONES = json.loads((STATIC / "zones.json").read_text())
BOROUGHS = {"Bronx", "Brooklyn", "EWR", "Manhattan", "Queens", "Staten Island"}
OPTIONS = "document.querySelectorAll('datalist option').length"
OPERATIONS = "document.querySelectorAll('.opblock').length"
TIME = "document.getElementById('time')"
ANSWER = "document.getElementById('answer').innerText"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """Run the web service for the tests of this module."""
    with serve(WEB_CONCURRENCY="1") as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """Run the browser for the tests of this module."""
    with open_browser() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    """Give the browser, with nothing requested yet."""
    browser.open("about:blank")
    browser.requested.clear()
    browser.complaints.clear()
    return browser


def url_of(service: RunningService, path: str) -> str:
    """Return the URL of a path of the service."""
    return f"http://{HOST}:{service.port}{path}"


def fill_in(page: Page, service: RunningService, pickup: str, dropoff: str, distance: str) -> None:
    """Open the form and use it with the keyboard alone."""
    page.open(url_of(service, "/"))
    page.wait_for(OPTIONS)
    page.read("document.getElementById('pickup').focus()")
    for number, text in enumerate((pickup, dropoff, distance)):
        if number:
            page.press("Tab", 9)
        page.send("Input.insertText", text=text)
    page.press("Enter", 13, "\r")


def test_the_zones_are_those_of_new_york() -> None:
    """The table has the 263 zones of the TLC, each with its borough, and neither of its two ids for other places."""
    assert [zone for zone, _, _ in ZONES] == list(range(1, 264))
    assert {borough for _, borough, _ in ZONES} == BOROUGHS
    assert [name for _, _, name in ZONES if not name] == []


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/"])
def test_a_page_holds_its_own_policy(service: RunningService, path: str) -> None:
    """A page has no inline script or style and no file of another server, and all its files exist."""
    response, body = service.ask("GET", path)
    assert response.status == 200
    assert (response.getheader("Content-Security-Policy") or "").startswith("default-src 'self';")
    assert re.findall(rb"<style|style=|<script>|\bon\w+=|https?:", body) == []
    links = {link.decode() for link in re.findall(rb'(?:href|src)="([^"]+)"', body)}
    assert {link: service.ask("GET", link)[0].status for link in links} == dict.fromkeys(links, 200)


@pytest.mark.parametrize("path", ["/static/none.js", "/static/../pages.py", "/static/swagger/../__init__.py"])
def test_no_other_file_is_served(service: RunningService, path: str) -> None:
    """Only the files of the pages can be read."""
    assert service.ask("GET", path)[0].status == 404


@NEEDS_BROWSER
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("path", "loaded"), [("/", OPTIONS), ("/docs", OPERATIONS)], ids=["form", "docs"])
def test_a_page_needs_no_other_server(service: RunningService, page: Page, path: str, loaded: str, width: int) -> None:
    """A page requests nothing from elsewhere, does nothing that its policy forbids, and fits a desktop and a phone."""
    page.open(url_of(service, path), width)
    page.wait_for(loaded)
    assert [url for url in page.requested if not url.startswith((url_of(service, "/"), "data:"))] == []
    assert page.complaints == []
    assert page.read("document.documentElement.scrollWidth") <= width


@NEEDS_BROWSER
def test_the_form_shows_the_minutes_that_predict_answers(service: RunningService, page: Page) -> None:
    """A person who types two zones and a distance sees the minutes and the model's version."""
    fill_in(page, service, "Alphabet City, Manhattan", "jfk", "17.5")
    answer = service.predict({"PULocationID": 4, "DOLocationID": 132, "trip_distance": 17.5})
    shown = page.wait_for(ANSWER)
    assert page.read(OPTIONS) == len(ZONES)
    assert f"{answer['duration']:.1f} minutes" in shown
    assert "From Alphabet City, Manhattan to JFK Airport, Queens, 17.5 miles" in shown
    assert answer["model_version"] in shown
    assert page.read("location.pathname + location.search") == "/"


@NEEDS_BROWSER
def test_the_form_knows_a_prediction_by_any_name(page: Page, tmp_path: Path) -> None:
    """PREDICTION_FIELD renames the value, which need not be minutes then."""
    model = copy_saying(None, tmp_path / "model")
    with serve(WEB_CONCURRENCY="1", MODEL_LOCATION=model, PREDICTION_FIELD="tip_amount") as service:
        fill_in(page, service, "4", "132", "17.5")
        answer = service.predict({"PULocationID": 4, "DOLocationID": 132, "trip_distance": 17.5})
        assert f"tip_amount: {answer['tip_amount']:.1f}" in page.wait_for(ANSWER)


@NEEDS_BROWSER
def test_the_form_asks_for_the_time_that_the_model_wants(page: Page, boosted_model: str) -> None:
    """A person who gives no time gets the prediction for now. The time of the page is the time in the city."""
    with serve(WEB_CONCURRENCY="1", MODEL_LOCATION=boosted_model) as service:
        fill_in(page, service, "4", "132", "17.5")
        page.wait_for(ANSWER)
        ride = {"PULocationID": 4, "DOLocationID": 132, "trip_distance": 17.5}
        for time in ("2023-02-01T08:30", "2023-02-05T23:59:30"):
            page.read(f"document.getElementById('answer').replaceChildren(); {TIME}.value = '{time}'")
            page.read("document.querySelector('form button').click()")
            answer = service.predict({**ride, "pickup_datetime": f"{time}:00"[:19]})
            assert f"{answer['duration']:.1f} minutes" in page.wait_for(ANSWER)
        page.read(f"{TIME}.value = '1969-12-31T23:59'; document.querySelector('form button').click()")
        assert page.wait_for("document.getElementById('time-error').innerText").startswith("Give a date and a time")


@NEEDS_BROWSER
@pytest.mark.parametrize(
    ("pickup", "dropoff", "distance", "field", "message"),
    [
        ("4", "132", "500", "distance", "This ride has no prediction: expected a number of at most 100.0."),
        ("4", "132", "-1", "distance", "This ride has no prediction: expected a number of at least 0.0."),
        ("4", "132", "", "distance", "Type a number of miles."),
        ("4", "nowhere", "1", "dropoff", "No zone has this name: pick one from the list."),
        ("corona", "132", "1", "pickup", "4 zones match this text: pick one of them."),
        ("", "132", "1", "pickup", "Pick a zone."),
    ],
    ids=["too far", "negative", "no distance", "unknown zone", "several zones", "no zone"],
)
def test_the_form_shows_an_error_at_its_field(
    service: RunningService, page: Page, pickup: str, dropoff: str, distance: str, field: str, message: str
) -> None:
    """The field has the error beside it and the focus, and screen readers know both."""
    fill_in(page, service, pickup, dropoff, distance)
    assert page.wait_for("document.querySelector('.error:not(:empty)')?.innerText") == message
    page.wait_for(f"document.activeElement.id == '{field}'")
    assert page.read("document.activeElement.getAttribute('aria-describedby')") == f"{field}-error"
    assert page.read("[...document.querySelectorAll('[aria-invalid]')].map((input) => input.id)") == [field]
    assert page.read(ANSWER) == ""


@NEEDS_BROWSER
def test_the_form_says_that_the_service_is_gone(page: Page) -> None:
    """The message says that the service does not answer, so a person does not look for a mistake in the ride."""
    with serve(WEB_CONCURRENCY="1") as service:
        fill_in(page, service, "4", "132", "17.5")
        page.wait_for(ANSWER)
    page.read("document.querySelector('form button').click()")
    error = page.wait_for("document.getElementById('form-error').innerText")
    assert error == "The service does not answer: try again."


@NEEDS_BROWSER
def test_the_documents_page_tries_each_operation_out(service: RunningService, page: Page) -> None:
    """The page shows all operations, and its first example gets a prediction."""
    document = json.loads(service.ask("GET", "/openapi.json")[1])
    operations = sorted(one["operationId"] for methods in document["paths"].values() for one in methods.values())
    page.open(url_of(service, "/docs"))
    page.wait_for(OPERATIONS)
    shown = page.read("[...document.querySelectorAll('.opblock')].map((one) => one.id)")
    assert sorted(name.split("-")[-1] for name in shown) == operations
    for button in ("#operations-Predictions-predict button", ".try-out__btn", ".execute"):
        page.wait_for(f"!!document.querySelector('{button}')")
        page.read(f"document.querySelector('{button}').click()")
    answered = page.wait_for("document.querySelector('.live-responses-table .microlight')?.innerText")
    example = {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}
    assert repr(service.predict(example)["duration"]) in answered
