"""The locustfile, as the course's users run it: Locust against the real service."""

import json
import subprocess
import sys

from tests.tools import PATIENCE, ROOT
from tests.web.servers import serve

USERS = 100
"""Enough users for at least one of them to send a list: nine of ten requests are single rides."""


def test_locust_gets_a_duration_for_every_ride_and_list() -> None:
    """Locust exits with 1 if a request failed. Users who have no answer when the time is over still get it."""
    with serve() as service:
        crowd = [
            "--headless",
            f"--users={USERS}",
            f"--spawn-rate={USERS}",
            "--run-time=3s",
            f"--stop-timeout={PATIENCE}",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "locust", *crowd, f"--host=http://127.0.0.1:{service.port}", "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
    assert done.returncode == 0, done.stderr
    failures = {one["name"]: one["num_failures"] for one in json.loads(done.stdout)}
    assert failures == {"/predict": 0, "/predict (list)": 0}
