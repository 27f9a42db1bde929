"""The plan: which months of a model are done, missing or stale."""

import functools
import http.server
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from artifacts import ModelError
from batch.manifests import MANIFEST
from batch.months import Month, months_between
from batch.plan import make_plan
from batch_job import Job, identify_model, score_month
from settings import ModelSettings
from tests.batch.conftest import serve
from tests.batch.jobs import settings
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import MODELS
from tests.trip_records import trip, write
from trip_cells import TripRecordError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MONTHS = [Month("green", 2022, 12), Month("green", 2023, 1), Month("green", 2023, 2)]
DONE, MISSING, NO_INPUT = ("done", ""), ("missing", ""), ("no input", "")


class Inputs(Protocol):
    """A folder of inputs, somewhere."""

    location: str

    def write(self, month: Month, miles: float) -> None:
        """Write a month's file of one trip of this distance."""

    def remove(self, month: Month) -> None:
        """Remove a month's file."""


class LocalInputs:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self.location = str(folder)
        self.folder = folder

    def write(self, month: Month, miles: float) -> None:
        """Write a file."""
        write(self.folder / month.file_name, [trip(trip_distance=miles)])

    def remove(self, month: Month) -> None:
        """Remove a file."""
        (self.folder / month.file_name).unlink()


class TaggedFiles(http.server.SimpleHTTPRequestHandler):
    """A web server that gives each file an ETag."""

    def end_headers(self) -> None:
        """Add the tag, which is the content as far as it differs."""
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{hash(path.read_bytes())}"')
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Objects:
    """A prefix in S3."""

    def __init__(self, s3: "S3Client", bucket: str, folder: Path) -> None:
        """Take the bucket, and a folder for the files that are put."""
        self.location = f"s3://{bucket}/trips/"
        self._s3, self._bucket, self._folder = s3, bucket, folder

    def write(self, month: Month, miles: float) -> None:
        """Put an object."""
        content = write(self._folder / month.file_name, [trip(trip_distance=miles)]).read_bytes()
        self._s3.put_object(Bucket=self._bucket, Key=f"trips/{month.file_name}", Body=content)

    def remove(self, month: Month) -> None:
        """Delete an object."""
        self._s3.delete_object(Bucket=self._bucket, Key=f"trips/{month.file_name}")


@pytest.fixture(params=["folder", "website", "S3"])
def inputs(request: pytest.FixtureRequest, s3: "S3Client", bucket: str, tmp_path: Path) -> Iterator[Inputs]:
    """Give an empty folder of inputs of each kind."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    local = LocalInputs(folder)
    if request.param == "S3":
        yield Objects(s3, bucket, folder)
        return
    if request.param == "folder":
        yield local
        return
    handler = functools.partial(TaggedFiles, directory=str(folder))
    with serve(handler) as local.location:
        yield local


def plan(location: str | None, output: Path, using: ModelSettings) -> list[tuple[str, str]]:
    """Return the state of each month, and the reason."""
    planned = make_plan(months_between(MONTHS[0], MONTHS[-1]), location, str(output), identify_model(using))
    assert [one.month for one in planned] == MONTHS
    assert [one.is_due for one in planned] == [one.state in ("missing", "stale") for one in planned]
    return [(one.state, one.reason) for one in planned]


@pytest.mark.slow
def test_the_plan_follows_inputs_and_models(inputs: Inputs, tmp_path: Path) -> None:
    """It tells what is done from what is missing or stale, before and after each change."""
    output, model = tmp_path / "output", tmp_path / "model"
    shutil.copytree(SAMPLE_MODEL, model)
    first, second = settings(model, RUN_ID="first"), settings(model, RUN_ID="second")

    def run(using: ModelSettings, force: bool = False) -> None:
        for month in MONTHS[:2]:
            score_month(Job(month, inputs.location, str(output), force), using)

    for month in MONTHS[:2]:
        inputs.write(month, 3.66)
    assert plan(inputs.location, output, first) == [MISSING, MISSING, NO_INPUT]
    run(first)
    assert plan(inputs.location, output, first) == [DONE, DONE, NO_INPUT]
    # Another version has a folder of its own.
    assert plan(inputs.location, output, second) == [MISSING, MISSING, NO_INPUT]
    run(second)
    inputs.write(MONTHS[1], 1.0)
    assert plan(inputs.location, output, first) == [DONE, ("stale", "the input has changed"), NO_INPUT]
    # The same version with another model in it.
    shutil.rmtree(model)
    MODELS["skops"](str(model))
    both = "the input has changed and the model has changed"
    assert plan(inputs.location, output, first) == [("stale", "the model has changed"), ("stale", both), NO_INPUT]
    run(first, force=True)
    assert plan(inputs.location, output, first) == [DONE, DONE, NO_INPUT]
    # An input that is gone makes no predictions worse, and they cannot be made again.
    inputs.remove(MONTHS[0])
    inputs.write(MONTHS[2], 1.0)
    assert plan(inputs.location, output, first) == [DONE, DONE, MISSING]
    assert plan(inputs.location, output, second)[0] == ("no input", "the model has changed")
    for manifest in output.rglob(MANIFEST):
        manifest.write_text("{")
    assert plan(inputs.location, output, first) == [NO_INPUT, MISSING, MISSING]


@pytest.mark.slow
def test_the_same_content_at_another_place_is_stale_only_until_it_is_read(inputs: Inputs, tmp_path: Path) -> None:
    """The plan cannot know that a remote file is the same. The job finds out, and the plan sees it in the manifest."""
    copies = LocalInputs(tmp_path)
    output = tmp_path / "output"
    for place in (copies, inputs):
        place.write(MONTHS[0], 3.66)
    first = score_month(Job(MONTHS[0], copies.location, str(output)), settings())
    files = set(output.rglob("*"))
    assert score_month(Job(MONTHS[0], inputs.location, str(output)), settings()).was_done
    for place in (copies, inputs):
        assert plan(place.location, output, settings())[0] == DONE
    assert set(output.rglob("*")) == files
    assert not first.was_done


@pytest.mark.slow
def test_another_name_or_column_is_another_model(tmp_path: Path) -> None:
    """Predictions are tagged with the name, and the column's name is a setting of the model."""
    LocalInputs(tmp_path).write(MONTHS[0], 1.0)
    score_month(Job(MONTHS[0], str(tmp_path), str(tmp_path / "output")), settings())
    for variables in ({"MODEL_NAME": "other"}, {"PREDICTION_FIELD": "minutes"}):
        found = plan(str(tmp_path), tmp_path / "output", settings(**variables))
        assert found[0] == ("stale", "the model has changed")
    assert plan(str(tmp_path), tmp_path / "output", settings())[0] == DONE


@pytest.mark.slow
def test_a_model_that_is_not_the_pinned_one_is_refused_for_a_month_that_is_done(tmp_path: Path) -> None:
    """Its predictions are not those of the model that MODEL_SHA256 names."""
    LocalInputs(tmp_path).write(MONTHS[0], 1.0)
    job = Job(MONTHS[0], str(tmp_path), str(tmp_path / "output"))
    score_month(job, settings(MODEL_SHA256=identify_model(settings()).sha256))
    with pytest.raises(ModelError, match="is not what MODEL_SHA256 names, 0{64}: the digest of the whole"):
        score_month(job, settings(MODEL_SHA256="0" * 64))


@pytest.mark.parametrize("location", ["trips.parquet", "no-such-folder", "https://host/trips?a=b", "s3://bucket/trips"])
def test_one_file_cannot_be_the_input_of_several_months(tmp_path: Path, location: str) -> None:
    """The error says how a folder is named."""
    with pytest.raises(TripRecordError, match=r"^\S+: not a folder, and one file cannot .* with a slash at its end$"):
        plan(location, tmp_path, settings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2023-2", "a month is written as 2023-02, not '2023-2'"),
        ("2023-13", "a month has a year from 2009 and a number from 1 to 12, not 2023-13"),
        ("2023-00", "a month has a year from 2009 and a number from 1 to 12, not 2023-00"),
        ("0001-01", "a month has a year from 2009 and a number from 1 to 12, not 1-01"),
        ("٢٠٢٣-٠١", "a month is written as 2023-02, not '٢٠٢٣-٠١'"),
    ],
)
def test_a_month_that_does_not_exist_is_refused(text: str, message: str) -> None:
    """The error has the text and says how a month is written."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Month.parse("green", text)


def test_months_have_an_order_and_a_distance() -> None:
    """A year ends with December, forwards and backwards."""
    months = list(months_between(Month.parse("green", "2021-11"), Month.parse("green", "2023-02")))
    assert list(map(str, months))[:3] == ["2021-11", "2021-12", "2022-01"]
    assert len(months) == 16
    assert [months[-1].before(distance) for distance in range(16)] == months[::-1]
    with pytest.raises(ValueError, match="the last month, 2021-11, is before the first, 2023-02"):
        list(months_between(months[-1], months[0]))
