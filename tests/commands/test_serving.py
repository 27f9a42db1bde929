"""The note of ``run --serve``: it counts only while the process that wrote it lives, and only for its own user."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

import clients
from scripts import cli, serving
from tests.tools import PATIENCE, ROOT, Tool, wait_for

VARIABLES = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
OTHERS = {"AWS_ENDPOINT_URL": "http://127.0.0.1:2"}
SERVE = """
import sys, time
from pathlib import Path
import clients
from scripts import cli, serving
with serving.announce({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, Path(sys.argv[1])):
    time.sleep(600)
"""


def serve(note: Path) -> Tool:
    """Announce from a process of its own."""
    return Tool([sys.executable, "-c", SERVE, str(note)], cwd=ROOT, text=True, stderr=subprocess.DEVNULL)


def test_the_note_is_there_as_long_as_its_block(tmp_path: Path) -> None:
    """Only the owner may read the note."""
    note = tmp_path / "note"
    assert serving.find(note) is None
    with serving.announce(VARIABLES, note):
        assert serving.find(note) == VARIABLES
        assert note.stat().st_mode & 0o777 == 0o600
    assert serving.find(note) is None
    assert list(tmp_path.iterdir()) == []


def test_the_note_of_a_process_that_was_killed_does_not_count(tmp_path: Path) -> None:
    """The file is still there, and another process may have its port and its process id by now."""
    note = tmp_path / "note"
    with serve(note) as process:
        wait_for(lambda: serving.find(note))
        process.kill()
    assert note.exists()
    assert serving.find(note) is None
    with serving.announce(OTHERS, note):
        assert serving.find(note) == OTHERS


def test_the_newest_local_aws_is_found(tmp_path: Path) -> None:
    """The end of an older one does not remove the note of a newer one."""
    note = tmp_path / "note"
    with serve(note) as older:
        wait_for(lambda: serving.find(note) == VARIABLES)
        with serving.announce(OTHERS, note):
            assert serving.find(note) == OTHERS
            older.send_signal(signal.SIGINT)
            older.wait(PATIENCE)
            assert serving.find(note) == OTHERS


def test_a_note_is_not_followed_if_others_may_have_written_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note is ignored if it belongs to another user, is a link, or is a pipe, whose content may never come."""
    note, link, pipe = (tmp_path / name for name in ("note", "link", "pipe"))
    link.symlink_to(note)
    os.mkfifo(pipe)
    with serving.announce(VARIABLES, note):
        assert serving.find(link) is None
        assert serving.find(pipe) is None
        monkeypatch.setattr(os, "getuid", lambda: note.stat().st_uid + 1)
        assert serving.find(note) is None


def test_a_folder_that_cannot_be_written_has_no_note(tmp_path: Path) -> None:
    """Without a note, the block runs as usual."""
    note = tmp_path / "none" / "note"
    with serving.announce(VARIABLES, note):
        assert serving.find(note) is None


@pytest.mark.parametrize(
    ("variables", "profile", "says"),
    [
        ({}, None, "Using the local AWS of ./scripts/run --serve at http://127.0.0.1:1\n"),
        ({"AWS_CA_BUNDLE": "bundle.pem", "AWS_REGION": ""}, None, "Using the local AWS"),
        ({"AWS_REGION": "eu-west-1"}, None, "Not using the local AWS of .* because AWS_REGION is set\n"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "token"}, None, "Not using .* because AWS_WEB_IDENTITY_TOKEN_FILE is set\n"),
        ({"AWS_CONFIG_FILE": "config"}, None, "Not using .* because AWS_CONFIG_FILE is set\n"),
        ({"HOME": "home"}, None, "Not using .* because there is a profile mine\n"),
        ({"AWS_ENDPOINT_URL": "http://localhost:4566", "AWS_REGION": "us-east-1"}, None, ""),
        ({"AWS_ENDPOINT_URL_KINESIS": "http://localhost:4566"}, None, ""),
        ({"HOME": "home"}, "mine", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_local_aws_is_used_only_if_nothing_else_is_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    profile: str | None,
    says: str,
) -> None:
    """A user who means another AWS never reaches the local AWS, and a line says whether it is used."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").write_text("[profile mine]\nregion = eu-west-1\n")
    # Set first, so that it is restored afterwards: the profile's name becomes a variable, because errors name it.
    monkeypatch.setenv("AWS_PROFILE", "")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, str(home) if value == "home" else value)
    monkeypatch.setattr(serving, "find", lambda: VARIABLES)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(clients, "_session", None)
    before = dict(os.environ)
    cli.choose_account(profile)
    expected = {**before, **VARIABLES} if says.startswith("Using") else before
    assert dict(os.environ) == {**expected, **({"AWS_PROFILE": profile} if profile else {})}
    shown = capsys.readouterr().err
    assert re.fullmatch(f"{says}.*", shown, re.DOTALL) if says else shown == ""
