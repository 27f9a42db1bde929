"""A shadow in the local stack: a second consumer of the same rides, which the live one does not notice."""

import os
import re
from pathlib import Path
from typing import Any

import cloudpickle
import yaml

from scripts.cli import OUTPUT_STREAM, SHADOW_STREAM
from tests.commands.test_run import changed_model, read_commands, stop, summary
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import copy_without_served_form
from tests.tools import finish, start


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
