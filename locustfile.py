"""Load on the web service as many users make it, who wait between their requests.

Start the service, then Locust, which has a page at http://localhost:8089 to choose the number of users:

    ./scripts/serve
    ./scripts/environment load -- locust --host http://localhost:9696

Without the page, for a minute, with 100 users, of whom 20 start each second:

    ./scripts/environment load -- locust --host http://localhost:9696 --headless -u 100 -r 20 --run-time 1m

Locust exits with 1 if a request failed. To compare services by their speed, use ./scripts/bench web.
"""

import random
from typing import Any

from locust import HttpUser, between, task

ZONES = 265
LIST_RIDES = 100


def make_ride() -> dict[str, Any]:
    """Return a ride between two of TLC's taxi zones."""
    pickup, dropoff = random.randint(1, ZONES), random.randint(1, ZONES)
    return {"PULocationID": pickup, "DOLocationID": dropoff, "trip_distance": round(random.uniform(0.1, 20), 2)}


class RideUser(HttpUser):
    """A user who asks for the duration of a ride, and in one of ten requests for many rides at once."""

    wait_time = between(1, 3)

    @task(9)
    def predict_ride(self) -> None:
        """Send one ride."""
        self.client.post("/predict", json=make_ride())

    @task
    def predict_list(self) -> None:
        """Send a list of rides, and fail if one has no duration: the status is 200 even if rides of a list are bad."""
        rides = [make_ride() for _ in range(LIST_RIDES)]
        with self.client.post("/predict", json=rides, name="/predict (list)", catch_response=True) as response:
            if response.ok and sum("duration" in answer for answer in response.json()) != LIST_RIDES:
                response.failure("an answer has no duration")
