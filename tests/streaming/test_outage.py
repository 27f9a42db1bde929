"""An outage that outlasts the mapping's retries: replay ends what it interrupted, and what is bad stays kept."""

import msgspec
import pytest

from rides import RideEvent
from scripts.aws.kept_objects import KeptObjects
from scripts.aws.replaying import ReplayFilter, plan_replay, replay
from scripts.localaws.faults import Call, FailedRequest, Fault
from scripts.localaws.rules import MappingSettings
from scripts.sources.bad import with_bad_rides
from scripts.sources.synthetic import generate_rides
from streaming.delivery import OutputStream
from tests.flow import RETRY, Chaos, Flow


def is_good(data: bytes) -> bool:
    """Return whether the data is a ride, by the contract."""
    try:
        msgspec.json.decode(data, type=RideEvent)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


@pytest.mark.kinesis("moto", "kinesis-local")
def test_every_good_ride_is_predicted_in_the_end_and_every_bad_one_is_kept(flow: Flow, chaos: Chaos) -> None:
    """Kinesis and S3 are both down for the first half of the batches, and the mapping tries each just once."""
    rides = with_bad_rides(generate_rides(200, seed=1), percent=5, seed=1)
    good = {record.partition_key for record in rides if is_good(record.data)}
    bad = {record.data for record in rides if not is_good(record.data)}
    destination = f"s3://{flow.bucket}"
    once = MappingSettings(
        batch_size=20, report_batch_item_failures=True, maximum_retry_attempts=0, on_failure=destination
    )

    def down_at_first(call: Call) -> Fault | None:
        return FailedRequest(503, "SlowDown") if call.number < 40 else None

    with chaos(down_at_first), chaos(down_at_first, "s3"):
        counters = flow.deliver(flow.function(), flow.put(*(record.data for record in rides)), once)
    assert 0 < counters.discarded < 200
    assert 0 < len(set(map(str, flow.predicted()))) < len(good)

    objects, stream = KeptObjects(flow.s3, f"{destination}/rejections"), OutputStream(flow.kinesis, flow.input)
    replayed = replay(objects, stream, plan_replay(objects, ReplayFilter()))
    flow.deliver(flow.function(), 200 + replayed, RETRY)
    assert set(map(str, flow.predicted())) == good
    assert flow.rejected_data() == bad
