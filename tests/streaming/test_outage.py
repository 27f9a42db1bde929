"""An outage that outlasts the retries of the mapping, and a replay after it."""

import pytest

from scripts.aws.kept_objects import KeptObjects
from scripts.aws.replaying import ReplayFilter, plan_replay, replay
from scripts.localaws.faults import Call, FailedRequest, Fault
from scripts.localaws.rules import MappingSettings
from scripts.sources.bad import with_bad_rides
from scripts.sources.synthetic import generate_rides
from streaming.delivery import OutputStream
from tests.flow import RETRY, Chaos, Flow


@pytest.mark.kinesis("moto", "kinesis-local")
def test_a_replay_after_an_outage_predicts_every_good_ride(flow: Flow, chaos: Chaos) -> None:
    """Every bad ride stays in the failures bucket.

    Kinesis and S3 are both down for the first half of the batches, and the mapping delivers each batch just once.
    """
    rides = with_bad_rides(generate_rides(80, seed=1), percent=10, seed=1)
    good = {record.partition_key for record in rides if record.event}
    bad = {record.data for record in rides if not record.event}
    destination = f"s3://{flow.bucket}"
    once = MappingSettings(
        batch_size=8, report_batch_item_failures=True, maximum_retry_attempts=0, on_failure=destination
    )

    def down_at_first(call: Call) -> Fault | None:
        return FailedRequest(503, "SlowDown") if call.number < 40 else None

    with chaos(down_at_first), chaos(down_at_first, "s3"):
        counters = flow.deliver(flow.function(), flow.put(*(record.data for record in rides)), once)
    assert 0 < counters.discarded < 80
    assert 0 < len(set(map(str, flow.predicted()))) < len(good)

    objects, stream = KeptObjects(flow.s3, f"{destination}/rejections"), OutputStream(flow.kinesis, flow.input)
    replayed = replay(objects, stream, plan_replay(objects, ReplayFilter()))
    flow.deliver(flow.function(), 80 + replayed, RETRY)
    assert set(map(str, flow.predicted())) == good
    assert flow.rejected_data() == bad
