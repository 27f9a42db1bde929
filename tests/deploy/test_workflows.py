"""The workflows in .github keep their promises, as far as their files show it."""

import json
import re
import subprocess
from pathlib import Path
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
LOCKED = ROOT / ".github" / "requirements.txt"
RENOVATE = json.loads((ROOT / ".github" / "renovate.json").read_text())
DIGEST = f"sha256:{'0a' * 32}"


def scripts_of(job: dict[str, Any]) -> list[str]:
    """Return the scripts of a job's steps."""
    return [step["run"] for step in job["steps"] if "run" in step]


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
    for script in scripts_of(job):
        assert "${{" not in script
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_only_deploying_jobs_get_a_token() -> None:
    """The code of a pull request runs without a token."""
    entitled = {name for name, job in JOBS.items() if "id-token" in job.get("permissions", {})}
    assert entitled == {"ship-package", "ship-staging", "ship-production"}


@pytest.mark.parametrize("job", OWN_JOBS.values(), ids=OWN_JOBS)
def test_pip_installs_the_lock_alone(job: dict[str, Any]) -> None:
    """Pip refuses a package without a hash, even if somebody adds one to the file."""
    installs = [script for script in scripts_of(job) if "pip" in script]
    assert set(installs) <= {f"pip install --require-hashes --requirement {LOCKED.relative_to(ROOT)}"}


def test_the_lock_of_the_sam_cli_has_hashes_and_wheels_alone() -> None:
    """A package that is built from its source downloads build tools, for which there are no hashes."""
    options, *requirements = re.findall(r"^(?!#|$)\S.*(?:\n    --hash.*)*", LOCKED.read_text(), re.MULTILINE)
    assert options == "--only-binary :all:"
    assert len(requirements) > 50
    assert [
        one for one in requirements if not re.match(r"[a-z\d-]+==\S+ \\\n +--hash=sha256:[0-9a-f]{64}\b", one)
    ] == []
    source = LOCKED.with_suffix(".in").read_text().splitlines()
    (wanted,) = [line for line in source if line and not line.startswith(("#", "--"))]
    assert [one for one in requirements if one.startswith(f"{wanted} ")]


@pytest.mark.parametrize("name", ["ship-package", "deploy-deploy"])
def test_jobs_with_a_token_build_no_package(name: str) -> None:
    """The packages of Pipfile.lock, which scripts/deploy installs, must be wheels too."""
    assert JOBS[name]["env"]["PIP_ONLY_BINARY"] == ":all:"


@pytest.mark.parametrize(
    ("base", "code"),
    [
        (f"python:3.13@{DIGEST}", 0),
        (f"python@{DIGEST}", 0),
        ("python:3.13", 1),
        ("python:3.13@sha256:", 1),
        (f"python:3.13@{DIGEST[:-1]}", 1),
        (f"python:3.13 # @{DIGEST} or another", 1),
    ],
)
def test_no_image_is_shipped_on_a_base_without_a_digest(base: str, code: int, tmp_path: Path) -> None:
    """The owner of an image can move its tag to another image."""
    dockerfile = re.sub("^ARG BASE=.*", f"ARG BASE={base}", (ROOT / "Dockerfile").read_text())
    (tmp_path / "Dockerfile").write_text(dockerfile)
    check = scripts_of(JOBS["ship-package"])[0]
    done = subprocess.run(["bash", "-e", "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.count("\n") == code


def test_every_image_of_the_dockerfile_is_its_targets_base() -> None:
    """One digest pins everything that an image is built on."""
    text = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall("^FROM .* AS (.+)", text, re.M))
    for part, base in zip(
        re.split("^(?=FROM .* AS python-base)", text, flags=re.M), ("${BASE}", "${PYTHON_BASE}"), strict=True
    ):
        images = set(re.findall(r"^FROM (\S+)", part, re.M)) | set(re.findall("^COPY --from=([^ ]+)", part, re.M))
        assert images - stages == {base}
    assert "docker:pinDigests" in RENOVATE["extends"]


def test_renovate_raises_what_is_pinned() -> None:
    """Renovate finds the lock of the SAM CLI, whose first lines have the command that writes the lock."""
    assert set(RENOVATE["enabledManagers"]) == {"dockerfile", "github-actions", "pip-compile"}
    (pattern,) = RENOVATE["pip-compile"]["managerFilePatterns"]
    assert re.fullmatch(pattern.strip("/"), str(LOCKED.relative_to(ROOT)))
    command = re.search("^#    (pip-compile .*)", LOCKED.read_text(), re.MULTILINE)
    assert command
    assert {"--generate-hashes", f"--output-file={LOCKED.name}"} < set(command[1].split())
    assert RENOVATE["constraints"]["python"] in LOCKED.read_text().splitlines()[1]


def test_production_gets_the_image_that_staging_ran() -> None:
    """Both stages deploy one image, production after the smoke test on staging."""
    assert JOBS["ship-staging"]["needs"] == "package"
    assert JOBS["ship-production"]["needs"] == "staging"
    assert JOBS["ship-package"]["if"] == "github.event_name == 'push'"


def test_lambda_alone_can_pull_the_image_and_no_tag_is_moved() -> None:
    """Lambda pulls the image only for the functions of this account's stacks."""
    text = (ROOT / "docs" / "deploy-from-github.md").read_text()
    (policy,) = re.findall(r"set-repository-policy --repository-name \S+ --policy-text '(.*?)'", text, re.DOTALL)
    assert json.loads(policy)["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Condition": {
                "StringLike": {"aws:sourceArn": "arn:aws:lambda:<region>:<account>:function:ride-predictions*"}
            },
        }
    ]
    pages = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    created = [line for page in pages for line in page.splitlines() if line.startswith("aws ecr create-repository")]
    assert created
    assert [line for line in created if "--image-tag-mutability IMMUTABLE" not in line] == []
