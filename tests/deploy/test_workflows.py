"""The workflows in .github keep their promises, as far as their files show it."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.tools import ROOT

JOBS: dict[str, dict[str, Any]] = {
    f"{path.stem}-{name}": job
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
}
OWN_JOBS = {name: job for name, job in JOBS.items() if "steps" in job}


@pytest.mark.parametrize("job", OWN_JOBS.values(), ids=OWN_JOBS)
def test_actions_of_other_owners_are_pinned_to_a_commit(job: dict[str, Any]) -> None:
    """An owner can move a tag to other code."""
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert uses
    assert [one for one in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one)] == []


@pytest.mark.parametrize("job", OWN_JOBS.values(), ids=OWN_JOBS)
def test_every_job_ends(job: dict[str, Any]) -> None:
    """Every job has a timeout, because GitHub's own is six hours."""
    assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("job", OWN_JOBS.values(), ids=OWN_JOBS)
def test_no_expression_is_written_into_a_script(job: dict[str, Any]) -> None:
    """A variable of the repository stays data; and each script is valid bash."""
    for script in (step["run"] for step in job["steps"] if "run" in step):
        assert "${{" not in script
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_only_deploying_jobs_get_a_token() -> None:
    """The code of a pull request runs without a token."""
    entitled = {name for name, job in JOBS.items() if "id-token" in job.get("permissions", {})}
    assert entitled == {"ship-package", "ship-staging", "ship-production"}


def test_production_gets_the_image_that_staging_ran() -> None:
    """Both stages deploy one image, production after the smoke test on staging."""
    assert JOBS["ship-staging"]["needs"] == "package"
    assert JOBS["ship-production"]["needs"] == "staging"
    assert JOBS["ship-package"]["if"] == "github.event_name == 'push'"
