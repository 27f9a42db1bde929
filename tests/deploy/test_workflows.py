"""What the workflows in .github promise, as far as it can be read from them."""

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
def test_others_actions_are_pinned_by_their_commit(job: dict[str, Any]) -> None:
    """A tag can be moved to other code."""
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert uses
    assert [one for one in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one)] == []


@pytest.mark.parametrize("job", OWN_JOBS.values(), ids=OWN_JOBS)
def test_every_job_ends(job: dict[str, Any]) -> None:
    """GitHub's own limit is six hours."""
    assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("job", OWN_JOBS.values(), ids=OWN_JOBS)
def test_no_expression_is_written_into_a_script(job: dict[str, Any]) -> None:
    """What stands in a variable of the repository's stays data; and each script is bash."""
    for script in (step["run"] for step in job["steps"] if "run" in step):
        assert "${{" not in script
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_only_what_deploys_gets_a_token() -> None:
    """A pull request's code runs without one."""
    entitled = {name for name, job in JOBS.items() if "id-token" in job.get("permissions", {})}
    assert entitled == {"ship-package", "ship-staging", "ship-production"}


def test_production_gets_what_staging_has_run() -> None:
    """One image, after one test."""
    assert JOBS["ship-staging"]["needs"] == "package"
    assert JOBS["ship-production"]["needs"] == "staging"
    assert JOBS["ship-package"]["if"] == "github.event_name == 'push'"
