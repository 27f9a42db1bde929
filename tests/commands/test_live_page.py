"""The live page of a run that serves, over HTTP and in a real browser."""

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import msgspec
import pytest

from scripts.cli import INPUT_STREAM
from scripts.localaws import setup
from scripts.localaws.account import take_account
from streaming.records import RejectionLine
from tests.conftest import SAMPLE_MODEL
from tests.localaws.test_live import Tab
from tests.tools import PATIENCE, finish, start, wait_for
from tests.web.browser import NEEDS_BROWSER, Page, open_browser

pytestmark = pytest.mark.slow
NASTY = "<img src=x onerror=\"document.title='taken'\"> - at `$.<b>ride</b>`"
CONSUMERS = ("live", "shadow")


@dataclass
class Served:
    """A run with a live consumer and a shadow, which serves."""

    page: str
    """The URL of the live page."""
    environment: dict[str, str]
    rides: int = 300
    """The rides that were put so far."""
    stack: dict[str, Any] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Return the host and the port."""
        return self.page.split("/")[2]

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request, with other headers than a browser's if these are given, and return the response."""
        with contextlib.closing(http.client.HTTPConnection(self.host, timeout=PATIENCE)) as connection:
            connection.request(method, path, body, {"Host": self.host, **headers})
            response = connection.getresponse()
            return response, response.read()

    def use(self, path: str, *, on: bool) -> int:
        """Use a switch, as the page does, and return the status."""
        return self.ask("POST", path, json.dumps({"on": on}), Origin=f"http://{self.host}")[0].status

    def put(self, number: int, *options: str) -> None:
        """Put rides from another terminal, and count them."""
        done = finish("put-rides", "--rides", str(number), *options, **self.environment)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stderr
        self.rides += number

    def wait(self, happened: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Open a tab, wait for a snapshot that has all rides and in which something has happened, and return it."""
        with contextlib.closing(Tab(self.page)) as tab:
            while True:
                found = tab.read()
                if found["rides"] == self.rides and happened(found):
                    return found


def is_settled(snapshot: dict[str, Any]) -> bool:
    """Return whether every consumer is done with every ride."""
    return all(one["behind"] == 0 for one in snapshot["consumers"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a stack for the tests of this module, and check that it ends while tabs are open."""
    options = ("--rides", "300", "--bad", "5", "--shards", "2", "--seed", "7", "--shadow", SAMPLE_MODEL, "--serve")
    with start("run", *options, cwd=tmp_path_factory.mktemp("run")) as stack:
        assert stack.stdout
        printed = ""
        while "get-records" not in printed:
            printed += stack.stdout.readline()
        page = re.findall(r"The live page: (\S+)", printed)[0]
        endpoint = re.findall(r"AWS_ENDPOINT_URL=(\S+)", printed)[0]
        served = Served(page, setup.variables(endpoint))
        yield served
        with contextlib.closing(Tab(page)) as tab:
            tab.read()
            stack.terminate()
            _, stderr = stack.communicate(timeout=PATIENCE)
    assert stack.returncode == 0, stderr
    assert "Traceback" not in stderr


def check_account(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the totals of each consumer become those of the account that a run takes.

    They do once the streams are quiet: with faults, a request may be applied after its ride was predicted.
    """
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    clients = boto3.client("kinesis"), boto3.client("s3")

    def find_differences() -> list[tuple[int, ...]]:
        accounts = [take_account({}, *clients, one) for one in (setup.LIVE, setup.outputs_of(setup.SHADOW))]
        counts = [(len(one.predicted), len(one.rejected), one.duplicates) for one in accounts]
        shown = served.wait(is_settled)["consumers"]
        assert all(one["predicted"] + one["rejected"] == served.rides for one in shown)
        assert all(sum(number for *_, number in one["reasons"]) == one["rejected"] for one in shown)
        pages = [(one["predicted"], one["rejected"], one["duplicates"]) for one in shown]
        return [one for one in (*counts, *pages) if counts != pages]

    wait_for(lambda: not find_differences())


def test_the_totals_are_those_of_the_account(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The totals also agree for aggregated records, and while faults let predictions be put twice."""
    snapshot = served.wait(is_settled)
    assert [one["name"] for one in snapshot["consumers"]] == list(CONSUMERS)
    assert all(one["rejected"] == 15 and one["p95"] > 0 for one in snapshot["consumers"])
    check_account(served, monkeypatch)
    assert served.use("/chaos", on=True) == 204
    assert served.wait(lambda found: found["chaos"]["on"])
    for _ in range(6):
        served.put(400, "--bad", "2")
    served.put(200, "--aggregate")
    assert served.wait(is_settled)["chaos"]["faults"] > 0
    check_account(served, monkeypatch)
    assert served.use("/chaos", on=False) == 204
    calls = served.wait(lambda found: not found["chaos"]["on"])["chaos"]["faults"]
    served.put(10)
    assert served.wait(is_settled)["chaos"]["faults"] == calls


def test_a_consumer_that_is_stopped_catches_up(served: Served) -> None:
    """While one consumer is stopped, the other one goes on."""
    assert served.use("/consumers/shadow", on=False) == 204
    served.wait(lambda found: found["consumers"][1]["state"] == "Disabled")
    served.put(50)
    found = served.wait(lambda found: found["consumers"][0]["behind"] == 0)
    assert [one["behind"] for one in found["consumers"]] == [0, 50]
    assert served.use("/consumers/shadow", on=True) == 204
    served.wait(is_settled)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/", {"Host": "evil.example"}, "", 403),
        ("GET", "/events", {"Host": "evil.example:80"}, "", 403),
        ("POST", "/chaos", {"Host": "evil.example", "Origin": "http://evil.example"}, '{"on": true}', 403),
        ("POST", "/chaos", {"Origin": "http://evil.example"}, '{"on": true}', 403),
        ("POST", "/chaos", {"Origin": "null"}, '{"on": true}', 403),
        ("POST", "/chaos", {}, '{"on": true}', 403),
        ("POST", "/chaos", {"Origin": "own"}, "on=true", 400),
        ("POST", "/chaos", {"Origin": "own"}, '{"on": "yes"}', 400),
        ("POST", "/chaos", {"Origin": "own"}, json.dumps({"on": True, "more": "x" * 1000}), 400),
        ("POST", "/chaos", {"Origin": "own", "Content-Length": "9" * 5000}, '{"on": true}', 400),
        ("POST", "/consumers/none", {"Origin": "own"}, '{"on": false}', 404),
        ("POST", "/consumers", {"Origin": "own"}, '{"on": false}', 404),
        ("GET", "/page.html", {}, "", 404),
    ],
)
def test_other_pages_can_do_nothing(
    served: Served, method: str, path: str, headers: dict[str, str], body: str, status: int
) -> None:
    """A page of another server can neither read nor use a switch, even if its name resolves to this machine."""
    own = {"Origin": f"http://{served.host}"} if headers.get("Origin") == "own" else {}
    response, _ = served.ask(method, path, body, **{**headers, **own})
    assert response.status == status
    assert response.getheader("Access-Control-Allow-Origin") is None
    snapshot = served.wait(is_settled)
    assert not snapshot["chaos"]["on"]
    assert all(one["state"] == "Enabled" for one in snapshot["consumers"])


def test_the_page_allows_itself_alone(served: Served) -> None:
    """The page has no reference to another file, and its policy allows its own script and style by their digests."""
    response, body = served.ask("GET", "/")
    policy = response.getheader("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert re.findall(rb"https?:|<link(?! rel=\"icon\" href=\"data:,\")|\bsrc=|@import|url\(|\bon\w+=\"", body) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """Run the browser for the tests of this module."""
    with open_browser() as page:
        yield page


def shown(consumer: int, name: str) -> str:
    """Return an expression for a consumer's number on the page."""
    return f"document.querySelectorAll('article')[{consumer}]?.querySelector('[data-name={name}]').textContent"


@NEEDS_BROWSER
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_sees_the_totals(served: Served, browser: Page, width: int) -> None:
    """The page does nothing that its policy forbids, and fits a desktop and a phone, also with a long name."""
    snapshot = served.wait(is_settled)
    browser.open(served.page, width)
    for place, one in enumerate(snapshot["consumers"]):
        for name in ("predicted", "rejected", "behind"):
            browser.wait_for(f"{shown(place, name)} == '{one[name]:,}'")
    browser.wait_for("document.getElementById('status').textContent == 'Live'")
    assert "shadow Running" in browser.wait_for("document.getElementById('spoken').textContent")
    browser.read("document.querySelector('th:last-child').textContent = 'x'.repeat(30)")
    assert browser.read("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert [url for url in browser.requested if not url.startswith((served.page, "data:"))] == []


@NEEDS_BROWSER
@pytest.mark.parametrize(("selector", "word"), [("article:nth-of-type(2) button", "Stopped"), ("#chaos", "Faults")])
def test_a_switch_is_used_with_the_keyboard(served: Served, browser: Page, selector: str, word: str) -> None:
    """The stack does what it says, and the page shows it."""
    browser.open(served.page)
    switch = f"document.querySelector({json.dumps(selector)})"
    browser.wait_for(f"document.querySelector('article') && !{switch}.disabled")
    was = browser.read(f"{switch}.ariaChecked")
    for expected in ("false" if was == "true" else "true", was):
        browser.read(f"{switch}.focus()")
        browser.press(" ", 32, " ")
        browser.wait_for(f"{switch}.ariaChecked == '{expected}'")
        if expected != was:
            browser.wait_for(f"{switch}.textContent.trim() == '{word}'")
            found = served.wait(lambda _: True)
            assert found["chaos"]["on"] or found["consumers"][1]["state"] != "Enabled"
    served.wait(lambda found: not found["chaos"]["on"] and found["consumers"][1]["state"] == "Enabled")


@NEEDS_BROWSER
def test_a_reason_is_shown_as_text(served: Served, browser: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page does not run HTML that a producer has put into a reason."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    assert served.use("/consumers/shadow", on=False) == 204
    served.wait(lambda found: found["consumers"][1]["state"] == "Disabled")
    put: Any = boto3.client("kinesis").put_record(StreamName=INPUT_STREAM, PartitionKey="1", Data=b"{}")
    served.rides += 1
    event_id = f"{put['ShardId']}:{put['SequenceNumber']}"
    line = RejectionLine(kind="ride", reason=NASTY, event_id=event_id, sequence_number=put["SequenceNumber"], data="")
    bucket, _, prefix = setup.outputs_of(setup.SHADOW).rejections.removeprefix("s3://").partition("/")
    key = f"{prefix}/{INPUT_STREAM}/{put['ShardId']}/by-hand.jsonl"
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=msgspec.json.encode(line))
    browser.open(served.page)
    browser.wait_for(f"document.body.innerText.includes({json.dumps(NASTY)})")
    assert browser.read("document.title") == "Rides, live"
    assert browser.read("document.querySelectorAll('img, b:not([class])').length") == 0
    assert browser.complaints == []
    assert served.use("/consumers/shadow", on=True) == 204
    served.wait(is_settled)
