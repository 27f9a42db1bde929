"""A shadow in the local stack: a second consumer of the same rides, which the live one does not notice."""

import os
import re
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import yaml

from model_metadata import KEY
from scripts.cli import OUTPUT_STREAM, SHADOW_STREAM
from tests.commands.test_run import changed_model, read_commands, rows_of_rides, stop, summary
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import copy_without_served_form
from tests.tools import finish, start
from tests.trip_records import trip, write


class EndsItsProcess:
    """A model that predicts the sample ride alone, and ends the process for any other."""

    def predict(self, features: list[dict[str, Any]]) -> list[float]:
        """Return a duration for the sample ride."""
        if [one["PU_DO"] for one in features] != ["130_205"]:
            os._exit(3)
        return [1.0]


def split_summaries(stdout: str) -> tuple[str, str]:
    """Return what was printed up to the live consumer's summary, and from the shadow's on."""
    live, title, shadow = stdout.partition(f"The predictions on {SHADOW_STREAM}")
    assert title
    return live, shadow


def counts(printed: str) -> dict[str, str]:
    """Return the rows of the last table of counts."""
    rows = re.findall(r"^│ ([^│]+) │ +([^│]+) │$", printed, re.MULTILINE)
    return {name.strip(): value for name, value in rows}


def test_a_shadow_predicts_the_same_rides_to_its_own_stream(tmp_path: Path) -> None:
    """The stack prints the command that compares both. Both consumers predict rides that are put later."""
    folder = changed_model(tmp_path, run_id="challenger")
    with start("run", "--rides", "30", "--bad", "10", "--chaos", "--shadow", str(folder), "--serve") as stack:
        commands = read_commands(stack)
        line = f"./scripts/compare {OUTPUT_STREAM} {SHADOW_STREAM}"
        assert line in commands.splitlines()
        endpoint = re.findall(r"AWS_ENDPOINT_URL=(\S+)", commands)[0]
        done = finish("compare", OUTPUT_STREAM, SHADOW_STREAM, AWS_ENDPOINT_URL=endpoint)
        assert f"Shadow: {folder}, run challenger" in stop(stack)
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line.split()[1:] for line in done.stdout.splitlines()[1:6]}
    assert (rows["rides"], rows["in both"][1:]) == (["27", "27"], ["100", "%", "100", "%"])
    assert rows["version"][1] == "challenger"
    assert "Both models predicted the same value for every ride." in done.stdout


def test_the_live_consumer_goes_on_if_the_shadow_fails(tmp_path: Path) -> None:
    """The exit code is the live consumer's. The shadow's rides are in the shadow's own failures bucket."""
    folder = Path(copy_without_served_form(SAMPLE_MODEL, tmp_path / "model"))
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["flavors"]["sklearn"] |= {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(EndsItsProcess()))
    arguments = ("run", "--rides", "1", "--shadow", str(folder))
    refused = finish(*arguments)
    assert refused.returncode == 1
    (digest,) = re.findall("set SHADOW_MODEL_SHA256=([0-9a-f]{64})$", refused.stderr, re.MULTILINE)
    done = finish(*arguments, SHADOW_MODEL_SHA256=digest)
    live, shadow = split_summaries(done.stdout)
    assert (done.returncode, counts(live)["predicted"]) == (0, "1"), done.stderr
    assert (counts(shadow)["predicted"], counts(shadow)["given up"]) == ("0", "1")
    assert "s3://ride-failures-shadow/aws/lambda/" in shadow
    assert summary(done)["put"] == "1"


def test_predictions_are_compared_with_true_values_of_their_own_target(tmp_path: Path) -> None:
    """The fares that a model predicts are compared with fares, in dollars; its shadow's durations with durations."""
    metadata = {KEY: {"target": "fare", "field": "fare_amount", "unit": "dollars"}}
    arguments = ("--model", str(changed_model(tmp_path, metadata=metadata)), "--shadow", str(SAMPLE_MODEL))
    write(tmp_path / "green_tripdata_2023-02.parquet", [trip(20)])
    done = finish("run", "--data", "green_tripdata_2023-02.parquet", *arguments, cwd=tmp_path)
    live, shadow = split_summaries(done.stdout)
    ((*_, predicted, true),) = rows_of_rides(live)
    assert (true, counts(live)["true fare known"]) == ("12.50", "1")
    assert counts(live)["MAE"] == counts(live)["RMSE"]
    assert float(counts(live)["MAE"].removesuffix(" dollars")) == pytest.approx(abs(float(predicted) - 12.5), abs=0.01)
    assert "predicted dollars" in live
    assert "min" not in live
    assert counts(shadow)["predicted"] == "1"
    assert counts(shadow)["MAE"].endswith(" min")
