"""Several consumers of one stream: each has its model, outputs and account, and no consumer waits for another."""

import argparse
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import yaml

from digests import digest_of
from scripts.cli import OUTPUT_STREAM, SAMPLE_MODELS
from scripts.localaws import account, consumers, setup
from scripts.localaws.account import ExpectedRecord, PutRide, put_and_wait, take_account, wait_until_settled
from scripts.localaws.consumers import RunningConsumer
from scripts.localaws.setup import LocalStack
from scripts.sources.synthetic import generate_rides
from tests.commands.test_run import read_commands, rows_of_rides, stop
from tests.commands.test_shadow import EndsItsProcess, counts
from tests.conftest import SAMPLE_MODEL, Clock
from tests.core.saved_models import copy_without_served_form
from tests.tools import PATIENCE, failed, finish, start, wait_for
from tests.trip_records import trip, write

NAMES = ("duration", "tip", "fare")


class Hangs:
    """A model that predicts the sample ride alone, and hangs for any other."""

    def predict(self, features: list[dict[str, Any]]) -> list[float]:
        """Return a duration for the sample ride."""
        if [one["PU_DO"] for one in features] != ["130_205"]:
            time.sleep(PATIENCE)
        return [1.0]


def save(model: object, folder: Path) -> tuple[str, str]:
    """Save a model of any class in a copy of the sample model; return its folder and the digest of its file."""
    copied = Path(copy_without_served_form(SAMPLE_MODEL, folder))
    description = yaml.safe_load((copied / "MLmodel").read_text())
    description["flavors"]["sklearn"] |= {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
    (copied / "MLmodel").write_text(yaml.safe_dump(description))
    content = cloudpickle.dumps(model)
    (copied / "model.pkl").write_bytes(content)
    return str(copied), digest_of(content)


def sections(stdout: str) -> dict[str, str]:
    """Return what was printed about each consumer, by its stream."""
    first, *others = re.split(rf"The predictions on (?={OUTPUT_STREAM}_)", stdout)
    return {OUTPUT_STREAM: first} | {text.split()[0]: text for text in others}


def test_each_consumer_predicts_every_ride_to_a_stream_of_its_own() -> None:
    """The account of each consumer is exact, even if calls fail."""
    done = finish(
        *("run", "--consumers", "duration,tip,fare", "--rides", "400", "--bad", "10", "--shards", "2"),
        *("--chaos", "--seed", "2"),
    )
    assert done.returncode == 0, done.stderr
    found = {stream: counts(text) for stream, text in sections(done.stdout.partition("Chaos")[0]).items()}
    assert list(found) == [OUTPUT_STREAM, f"{OUTPUT_STREAM}_tip", f"{OUTPUT_STREAM}_fare"]
    assert {(one["put"], one["predicted"], one["rejected"]) for one in found.values()} == {("400", "360", "40")}
    assert "s3://ride-failures-tip/rejections/" in done.stdout
    assert "The account of every consumer is exact: duration, tip, fare\n" in done.stdout


def test_rides_that_are_put_later_reach_every_consumer() -> None:
    """The commands for another terminal read the streams of the others. --rate lets the rides flow steadily."""
    with start("run", "--consumers", "fare,tip", "--rides", "3", "--rate", "10", "--serve") as stack:
        commands = read_commands(stack)
        line = f"./scripts/read-predictions --json --distinct --idle 2 --stream {OUTPUT_STREAM}_tip"
        assert line in commands.splitlines()
        assert "./scripts/compare" not in commands
        endpoint = re.findall(r"AWS_ENDPOINT_URL=(\S+)", commands)[0]
        put = finish("put-rides", "--rides", "5", AWS_ENDPOINT_URL=endpoint)
        assert put.returncode == 0, put.stderr
        for stream, target in ((OUTPUT_STREAM, "fare"), (f"{OUTPUT_STREAM}_tip", "tip")):
            arguments = ("--json", "--distinct", "--limit", "8", "--stream", stream)
            read = finish("read-predictions", *arguments, AWS_ENDPOINT_URL=endpoint)
            assert read.stdout.count(f'"{target}_amount":') == 8, read.stderr
            assert read.stdout.count(f'"ride_{target}_prediction_model"') == 8
        stop(stack)


def test_each_consumer_is_compared_with_the_true_values_of_its_own_target(tmp_path: Path) -> None:
    """The file has a duration, a tip and a fare for each ride."""
    paid = {"tip_amount": 2.0, "payment_type": 1}
    write(tmp_path / "green_tripdata_2023-02.parquet", [trip(20, **paid), trip(30, **paid)])
    arguments = ("--consumers", "tip,fare,duration", "--data", "green_tripdata_2023-02.parquet")
    done = finish("run", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tip, fare, duration = map(counts, sections(done.stdout).values())
    assert [true for *_, true in rows_of_rides(done.stdout)] == ["2.00", "2.00"]
    assert [one["MAE"].split()[1] for one in (tip, fare, duration)] == ["dollars", "dollars", "min"]
    known = [one[f"true {name} known"] for one, name in ((tip, "tip"), (fare, "fare"), (duration, "duration"))]
    assert known == ["2", "2", "2"]


def test_a_consumer_whose_function_fails_has_an_account_that_is_not_exact(tmp_path: Path) -> None:
    """The other accounts are exact, and the exit code is 1. A line names the variable for a pickled model's digest."""
    folder, digest = save(EndsItsProcess(), tmp_path / "model")
    arguments = ("run", "--consumers", f"duration,ends-it={folder}", "--rides", "1")
    refused = finish(*arguments)
    assert f"the consumer ends-it does not start: ModelError: {folder}/model.pkl" in failed_last_line(refused.stderr)
    assert refused.stderr.rstrip().endswith(f"set ENDS_IT_MODEL_SHA256={digest}")
    done = finish(*arguments, ENDS_IT_MODEL_SHA256=digest)
    live, other = sections(done.stdout).values()
    assert (done.returncode, counts(live)["predicted"]) == (1, "1"), done.stderr
    assert (counts(other)["predicted"], counts(other)["given up"]) == ("0", "1")
    assert "s3://ride-failures-ends-it/aws/lambda/" in other
    assert "Not exact: the account of ends-it\n" in done.stdout


def failed_last_line(stderr: str) -> str:
    """Return the last line of a command that failed after it had begun."""
    return stderr.rstrip().rpartition("\n")[2]


Run = Callable[..., contextlib.AbstractContextManager[tuple[LocalStack, list[RunningConsumer]]]]


@contextlib.contextmanager
def run_consumers(locations: Mapping[str, str]) -> Iterator[tuple[LocalStack, list[RunningConsumer]]]:
    """Run the consumers in this process for the length of the block."""
    chosen = consumers.choose_consumers(None, None, locations)
    with (
        setup.start(1, [(one.model, one.outputs) for one in chosen]) as local,
        consumers.start(chosen, local, local.endpoint, 1) as running,
    ):
        yield local, running


def put(local: LocalStack, rides: dict[str, PutRide], done: list[RunningConsumer], seed: int, count: int = 300) -> None:
    """Put rides, and wait until these consumers are done with them and with all that were put before."""
    records = [ExpectedRecord(record) for record in generate_rides(count, seed)]
    before = len(rides)
    put_and_wait(local.kinesis, records, {}, rides)
    ends = wait_until_settled({one.name: one.mapping for one in done}, before + count, lambda: None)
    assert None not in ends.values()


def test_a_consumer_that_stands_still_catches_up_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one consumer stands still, the others go on. A run waits for it as long as it stands still."""
    with run_consumers({name: str(SAMPLE_MODELS[name]) for name in NAMES}) as (local, running):
        duration, tip, fare = running
        assert [one.model.metadata.target for one in running] == list(NAMES)
        rides: dict[str, PutRide] = {}
        put(local, rides, running, seed=1)
        tip.pause()
        wait_for(lambda: tip.mapping.state == "Disabled")
        assert [one.is_paused for one in running] == [False, True, False]
        put(local, rides, [duration, fare], seed=2)
        assert [one.delivered.count for one in running] == [600, 300, 600]
        clock = Clock()
        monkeypatch.setattr(account, "time", clock)

        def pass_time() -> None:
            if clock.now < 5 * account.STALL_SECONDS:
                clock.sleep(account.STALL_SECONDS)
            else:
                tip.resume()

        ends = wait_until_settled({"tip": tip.mapping, "fare": fare.mapping}, 600, pass_time)
        assert None not in ends.values()
        assert list(ends) == ["tip", "fare"]
        assert not tip.is_paused
        for one in running:
            found = take_account(rides, local.kinesis, local.s3, one.outputs)
            assert (found.is_exact, len(found.predicted), found.duplicates) == (True, 600, 0)


def test_the_others_go_on_if_a_consumer_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that hangs times out at each attempt. If its consumer is stopped, the batch in flight is the last."""
    folder, digest = save(Hangs(), tmp_path / "model")
    monkeypatch.setenv("HANGS_MODEL_SHA256", digest)
    monkeypatch.setattr(consumers, "TIMEOUT_SECONDS", 2)
    with run_consumers({"hangs": folder, "tip": str(SAMPLE_MODELS["tip"])}) as (local, running):
        hangs, tip = running
        rides: dict[str, PutRide] = {}
        put(local, rides, [tip], seed=1, count=2)
        assert hangs.mapping.counters().settled == 0
        hangs.pause()
        wait_for(lambda: hangs.mapping.state == "Disabled")
        put(local, rides, [tip], seed=2)
        assert take_account(rides, local.kinesis, local.s3, tip.outputs).is_exact
        assert take_account(rides, local.kinesis, local.s3, hangs.outputs).missing == list(rides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a name of a consumer"),
        ("duration,,tip", "'' is not a name of a consumer"),
        ("Tip=model", "'Tip' is not a name of a consumer: take up to 30 lower-case letters, digits and hyphens"),
        ("tip-=model", "'tip-' is not a name"),
        ("a" * 31, "is not a name"),
        ("tip,fare,tip", "tip is named twice: give each consumer a name of its own"),
        ("total", "there is no sample model total, only duration, tip, fare: give another as total=LOCATION"),
        ("total=", "total= has no location: give a folder or an s3:// URI after it"),
    ],
)
def test_a_list_of_consumers_that_cannot_be_used_is_refused(text: str, message: str) -> None:
    """The message says what is wrong with which part, and what to do."""
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(message)):
        consumers.locations(text)


@pytest.mark.parametrize("option", ["--model", "--shadow"])
def test_consumers_exclude_the_options_of_single_models(option: str) -> None:
    """A line says so, and how to give the models. Nothing is started."""
    done = finish("run", "--consumers", "tip", option, SAMPLE_MODEL)
    assert done.returncode == 2
    assert "--consumers names all models: give --model and --shadow without it, or NAME=LOCATION in it" in done.stderr
    assert failed(finish("run", "--consumers", "duration,tip=nowhere")).startswith(
        "run: there is no folder nowhere: set the location of tip to the one"
    )
