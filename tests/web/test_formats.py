"""The web service's formats in docs/formats.md: each request that is shown is answered as shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.builders import ride_event
from tests.test_docs import documented
from tests.tools import ROOT
from tests.watched_models import copy_watched
from tests.web.conftest import Lines, WebService
from tests.web.test_metrics import read

_, _, REST = (ROOT / "docs" / "formats.md").read_text().partition("\n## The web service\n")
TEXT = REST.partition("\n## ")[0]
EXCHANGES = re.findall(r"^(GET|POST) (\S+)(?: (.*))?\n(\d{3}) (.*)$", TEXT, re.MULTILINE)
VARYING = "service_up_since"


def rounded(value: Any) -> Any:
    """Return JSON with its numbers rounded: the last bits differ between machines."""
    return json.loads(json.dumps(value), parse_float=lambda digits: round(float(digits), 6))


def test_there_are_exchanges() -> None:
    """Without an exchange, the next test would prove nothing."""
    assert len(EXCHANGES) >= 9


@pytest.mark.parametrize(("method", "path", "body", "status", "answer"), EXCHANGES)
def test_a_request_is_answered_as_it_is_shown(
    web_service: WebService, method: str, path: str, body: str, status: str, answer: str
) -> None:
    """The answer has the same fields in the same order, with the same values, except for the time."""
    client = web_service(RUN_ID="").app.test_client()
    response = client.open(path, method=method, data=body, content_type="application/json")
    shown = json.loads(answer)
    assert response.status_code == int(status)
    answered = response.json
    if VARYING in answered:
        answered[VARYING] = shown[VARYING]
    assert json.dumps(rounded(answered)) == json.dumps(rounded(shown))


def test_the_log_line_has_the_fields_that_are_shown(client: Any, lines: Lines) -> None:
    """The line has the fields in the same order, too."""
    client.post("/predict", json=ride_event())
    (line,), (shown,) = lines(), re.findall(r'^\{"level".*$', TEXT, re.MULTILINE)
    assert list(line) == list(json.loads(shown))


def test_each_metric_is_documented(web_service: WebService, tmp_path: Path) -> None:
    """The table has the names that Prometheus stores, with their labels."""
    client = web_service(MODEL_LOCATION=copy_watched(tmp_path / "model")).app.test_client()
    families = read(client.get("/metrics").text).values()
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    section = TEXT.partition("\n### Metrics\n")[2]
    assert set(documented(section)) == names
    for family in families:
        (row,) = [line for line in section.splitlines() if line.startswith(f"| `{family.name}")]
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert set(re.findall("`(.+?)`", row.split("|")[2])) == labels


def test_each_promise_names_tests_that_exist() -> None:
    """A test may be renamed, and its promise with it."""
    section = (ROOT / "docs" / "promises.md").read_text().partition("\n## The web service\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", section))
    code = "".join(path.read_text() for path in ROOT.glob("tests/web/test_*.py"))
    defined = set(re.findall(r"def (test_\w+)", code))
    assert named
    assert named <= defined
