"""The context that Lambda hands to a function, played for a call of our own."""

import time
import uuid


class LambdaContext:
    """The context of an invocation that begins now and has so many seconds."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self.aws_request_id = str(uuid.uuid4())
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function's timeout."""
        return int((self._end - time.monotonic()) * 1000)
