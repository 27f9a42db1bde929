"""Whether the service should get requests: yes from the model's first prediction until the service begins to stop."""

import datetime
import mmap
from typing import Any

from features import SAMPLE_RIDE
from model import Model, PredictionError


class Health:
    """The state of the service, which processes that are forked later share."""

    def __init__(self, name: str, model: Model, drain_seconds: float) -> None:
        """Let the model predict a sample ride. ``drain_seconds`` is how long the service drains before it stops."""
        self.drain_seconds = drain_seconds
        self._names = {"model": name, "model_version": model.version}
        self._is_ready = not isinstance(model.predict([SAMPLE_RIDE])[0], PredictionError)
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        # Shared memory, because gunicorn's first process writes it and the workers read it.
        self._draining = mmap.mmap(-1, 1)

    def drain(self) -> None:
        """Say from now on that the service is not ready, because it is about to stop."""
        self._draining[0] = 1

    @property
    def is_draining(self) -> bool:
        """Whether the service is about to stop."""
        return self._draining[0] == 1

    @property
    def is_ready(self) -> bool:
        """Whether the service should get requests."""
        return self._is_ready and not self.is_draining

    def report(self) -> dict[str, Any]:
        """Return the state for people and load balancers."""
        status = "draining" if self.is_draining else "ok" if self._is_ready else "unable to predict"
        return {"status": status, **self._names, "service_up_since": self._since}
