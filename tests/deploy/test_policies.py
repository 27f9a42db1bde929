"""The roles allow each call that is made, and nothing that no call needs."""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError

from artifacts import S3Artifact
from scripts.localaws import faults
from scripts.localaws.chaos import ChaosEndpoint, Request, serve
from scripts.localaws.faults import Decide, FailedEntries, FailedRequest, Fault, no_fault
from streaming import delivery
from streaming.delivery import DeliveryError
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.deploy.deployment import LEAST, UNUSUAL, Stack, deploy, resources_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "arn:aws:kms:us-east-1:123456789012:key/"
KEYS = {f"{name}KeyArn": f"{KEY}{name.lower()}" for name in ("Input", "Output", "Failures", "Model")}
RUN_ID = "a74aaab7ca9e444ca8fc468eb4bd20e7"
"""The run that logged the sample model."""
LISTING = {"list-type", "prefix", "encoding-type"}
"""The query parameters of ListObjectsV2. For more than 1,000 objects there would be a continuation token too. With a
delimiter, it lists one folder."""
ASKING_FOR_MORE = {"x-amz-acl", "x-amz-copy-source", "x-amz-object-lock-mode", "x-amz-tagging"}
"""Headers of PutObject that need another permission (S3 API reference)."""
PLACES = ("1/models/m-0/artifacts", f"1/{RUN_ID}/artifacts/model", "some/model")
"""The places of a model: in MLflow 3's layout, in MLflow 2's, and under a ModelPath."""
GROUPS = "arn:aws:logs:us-east-1:123456789012:log-group"
POLLING = ("DescribeStream", "DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards")
"""A mapping's calls to its stream (Lambda developer guide, "Configure your Lambda function's execution role")."""
LOGGING = ("CreateLogStream", "PutLogEvents")
"""The calls that Lambda makes to a log group that exists (Lambda developer guide, "Sending logs to CloudWatch")."""


Recording = Callable[..., contextlib.AbstractContextManager[ChaosEndpoint]]
"""The type of the ``recording`` fixture."""


@dataclass(frozen=True)
class Call:
    """A request as IAM sees it."""

    action: str
    resource: str
    prefix: str | None = None
    """The value of ``s3:prefix``, if the request has one."""


@dataclass(frozen=True)
class Grant:
    """The smallest part of a statement: one action on one resource, with one value of its condition."""

    action: str
    resource: str
    prefix: str | None = None

    def allows(self, call: Call) -> bool:
        """Return whether the grant allows the call."""
        allowed = self.action == call.action and fnmatchcase(call.resource, self.resource)
        return allowed and (self.prefix is None or (call.prefix is not None and fnmatchcase(call.prefix, self.prefix)))


def grants(statements: Iterable[dict[str, Any]]) -> list[Grant]:
    """Split statements into grants. Anything in them besides actions, resources and ``s3:prefix`` fails the test."""
    found = []
    for statement in statements:
        assert statement["Effect"] == "Allow"
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        condition = statement.get("Condition")
        prefixes = as_list(condition["StringLike"]["s3:prefix"]) if condition else [None]
        assert condition is None or condition == {"StringLike": {"s3:prefix": condition["StringLike"]["s3:prefix"]}}
        parts = itertools.product(as_list(statement["Action"]), as_list(statement["Resource"]), prefixes)
        found += [Grant(*part) for part in parts]
    return found


def as_list(value: Any) -> list[Any]:
    """Return the values of an element of a policy. A single value may stand there without brackets."""
    return value if isinstance(value, list) else [value]


def denied(calls: Iterable[Call], given: Sequence[Grant]) -> list[Call]:
    """Return the calls that no grant allows."""
    return [call for call in calls if not any(grant.allows(call) for grant in given)]


def superfluous(calls: Sequence[Call], given: Sequence[Grant]) -> list[Grant]:
    """Return the grants without which every call would still be allowed."""
    return [grant for grant in given if not denied(calls, [other for other in given if other is not grant])]


def as_calls(request: Request) -> list[Call]:
    """Return the calls that IAM has to allow for a request of the product. An unknown request fails the test."""
    url, headers = urlsplit(request.target), request.headers
    bucket, _, key = unquote(url.path.removeprefix("/")).partition("/")
    arn, values = f"arn:aws:s3:::{bucket}", parse_qs(url.query, True)
    signed = re.search(r"Credential=[^/]*/\d+/[^/]*/([^/]*)/aws4_request", headers.get("Authorization", ""))
    match signed and signed[1], request.method, set(values), headers.get("X-Amz-Target"):
        case "kinesis", "POST", _, "Kinesis_20131202.PutRecords":
            stream = json.loads(request.body)["StreamName"]
            return [Call("kinesis:PutRecords", f"arn:aws:kinesis:us-east-1:123456789012:stream/{stream}")]
        case "s3", "GET", query, _ if query - {"delimiter"} == LISTING and not key:
            return [Call("s3:ListBucket", arn, values["prefix"][0])]
        case "s3", "GET" | "HEAD", query, _ if not query and key:
            # To a role that may not list the whole bucket, S3 answers 403 instead of 404 (S3 API reference,
            # GetObject, "Permissions"), and the function could not tell that the file is missing.
            missing = [Call("s3:ListBucket", arn)] if request.status == HTTPStatus.NOT_FOUND else []
            return [Call("s3:GetObject", f"{arn}/{key}"), *missing]
        case "s3", "PUT", query, _ if not query and key and not ASKING_FOR_MORE & set(map(str.lower, headers)):
            return [Call("s3:PutObject", f"{arn}/{key}")]
        case "s3", "DELETE", query, _ if not query and key:
            return [Call("s3:DeleteObject", f"{arn}/{key}")]
    call = f"{request.method} {request.target} {headers.get('X-Amz-Target', '')}"
    raise AssertionError(f"{call} is a new call: the roles in template.yaml need a permission for it")


def at_first(call: faults.Call) -> Fault | None:
    """Throttle the first of several entries, and fail every other attempt to write an object."""
    if call.operation == "PutRecords":
        return FailedEntries(frozenset({0})) if len(call.entries) > 1 else None
    return FailedRequest(503, "SlowDown") if call.number % 2 else None


def always(call: faults.Call) -> Fault:
    """Throttle every entry, and fail every object."""
    if call.operation == "PutRecords":
        return FailedEntries(frozenset(range(len(call.entries))))
    return FailedRequest(503, "SlowDown")


def refuse(call: faults.Call) -> Fault:
    """Refuse everything, as AWS does if a permission is missing."""
    return FailedRequest(403 if call.operation == "PutObject" else 400, "AccessDeniedException")


FAULTS: dict[Decide, int] = {no_fault: 0, at_first: 0, always: 3, refuse: 3}
"""The faults of requests, with the number of records, out of three, that are then left for redelivery."""


@dataclass(frozen=True)
class Consumer:
    """A function of the template, with the logical names of its resources."""

    function: str
    role: str
    logs: str
    mapping: str
    predictions: str
    writes_to: tuple[str, ...]
    """The folders of the failures bucket."""


LIVE = Consumer(
    "Consumer", "ConsumerRole", "ConsumerLogs", "ConsumerRides", "PredictionsStream", ("rejections", "aws/lambda")
)
SHADOW = Consumer(
    "ShadowConsumer",
    "ShadowRole",
    "ShadowLogs",
    "ShadowConsumerRides",
    "ShadowPredictionsStream",
    ("shadow/rejections",),
)


@dataclass
class Trouble:
    """The faults of requests, which can be replaced while the endpoint runs."""

    decide: Decide = no_fault


@pytest.fixture
def recording(endpoint: str, aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Give a function that puts a fault-injecting endpoint, which keeps the requests, before the local AWS."""

    @contextlib.contextmanager
    def recorded(decide: Decide = no_fault) -> Iterator[ChaosEndpoint]:
        with serve(endpoint, decide, keeps_requests=True) as faulty, monkeypatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", faulty.url)
            yield faulty

    return recorded


@pytest.fixture
def work(
    s3: "S3Client",
    bucket: str,
    recording: Recording,
    cold_start: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[dict[str, str], str], list[Call]]:
    """Give a function that uploads the model, has the consumer do everything that it can, and returns its calls."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
    event = kinesis_event(ride_event(1), ride_event(2), b"no ride")

    def let_work(variables: dict[str, str], place: str) -> list[Call]:
        for path in Path(SAMPLE_MODEL).iterdir():
            s3.put_object(Bucket=bucket, Key=f"{place}/{path.name}", Body=path.read_bytes())
        trouble = Trouble()
        with recording(lambda call: trouble.decide(call)) as faulty:
            function = cold_start(**{"MODEL_LOCATION": "", **variables})
            for trouble.decide, left in FAULTS.items():
                assert delivered_again(function, event) == left
            trouble.decide = no_fault
            if location := variables.get("MODEL_LOCATION"):
                # model.py lists the whole folder of a model that is not of the sklearn flavor.
                S3Artifact(location).names()
        return [call for request in faulty.requests for call in as_calls(request)]

    return let_work


def delivered_again(function: ModuleType, event: dict[str, Any]) -> int:
    """Invoke the function, and return how many records Lambda would redeliver: all of them if it raises."""
    try:
        return len(function.lambda_handler(event)["batchItemFailures"])
    except DeliveryError:
        return len(event["Records"])


def calls_of_lambda(stack: Stack, consumer: Consumer) -> list[Call]:
    """Return the calls that Lambda makes with the function's role, to poll, to log and to keep discarded batches."""
    group = f"{GROUPS}:{stack.resources[consumer.logs]}:log-stream:2026/11/21/a"
    failures = f"arn:aws:s3:::{stack.resources['FailuresBucket']}"
    # Lambda developer guide, "Retain discarded batch records for a Kinesis Data Streams event source".
    given_up = f"{failures}/aws/lambda/{stack.resources[consumer.mapping]}/shardId-000000000000/2026/11/21/a"
    keeping = [Call("s3:PutObject", given_up), Call("s3:ListBucket", failures)]
    return [
        *(Call(f"kinesis:{action}", stack.outputs["InputStreamArn"]) for action in POLLING),
        *(Call(f"logs:{action}", group) for action in LOGGING),
        *(keeping if "aws/lambda" in consumer.writes_to else []),
    ]


def calls_of_keys(calls: Iterable[Call]) -> list[Call]:
    """Return the KMS calls that Kinesis and S3 make, on behalf of the caller, so that these calls succeed."""
    needed = {
        "kinesis:GetRecords": Call("kms:Decrypt", KEYS["InputKeyArn"]),
        "kinesis:PutRecords": Call("kms:GenerateDataKey", KEYS["OutputKeyArn"]),
        "s3:PutObject": Call("kms:GenerateDataKey", KEYS["FailuresKeyArn"]),
        "s3:GetObject": Call("kms:Decrypt", KEYS["ModelKeyArn"]),
    }
    return [needed[call.action] for call in calls if call.action in needed]


def near_misses(stack: Stack, consumer: Consumer, models: str) -> list[Call]:
    """Return calls that only a wider role would allow, such as needed actions on neighbouring resources."""
    other = SHADOW if consumer is LIVE else LIVE
    rides, predictions, others = (
        f"arn:aws:kinesis:us-east-1:123456789012:stream/{stack.resources[stream]}"
        for stream in ("InputStream", consumer.predictions, other.predictions)
    )
    failures, models = f"arn:aws:s3:::{stack.resources['FailuresBucket']}", f"arn:aws:s3:::{models}"
    groups = (f"{GROUPS}:{stack.resources[other.logs]}", f"{GROUPS}:elsewhere")
    unrelated = ("2/models/m-0/artifacts/MLmodel", f"1/{RUN_ID}/artifacts/rides.csv", "unrelated/model/MLmodel")
    beside = ("some/MLmodel", "some/model-2/MLmodel", "some/mode", "some/other/MLmodel", "1/models-2/m-0/MLmodel")
    prefixes = (None, "", "2/models/", "unrelated/", "some/", "some/model", "some/model-2/", "some/other/")
    return [
        *(Call("kinesis:GetRecords", stream) for stream in (predictions, others, f"{rides}-2")),
        *(Call("kinesis:PutRecords", stream) for stream in (rides, others, f"{predictions}-2")),
        *(Call("kinesis:DeleteStream", stream) for stream in (rides, predictions)),
        *(Call("s3:PutObject", f"{failures}/{place}/key") for place in (*other.writes_to, "elsewhere", "replayed")),
        *(Call("s3:PutObject", f"{bucket}/{consumer.writes_to[0]}/key") for bucket in (models, f"{failures}-2")),
        *(Call(f"s3:{action}", f"{failures}/{consumer.writes_to[0]}/key") for action in ("GetObject", "DeleteObject")),
        *(Call("s3:GetObject", f"{models}/{key}") for key in (*unrelated, *beside)),
        *(Call("s3:GetObject", f"{models}-2/{place}/MLmodel") for place in PLACES),
        *(Call("s3:ListBucket", models, prefix) for prefix in prefixes),
        *(Call("s3:ListBucket", f"{models}-2", f"{place}/") for place in PLACES),
        *(Call("logs:PutLogEvents", f"{group}:log-stream:2026/11/21/a") for group in groups),
        *(Call(f"kms:{action}", f"{KEY}another") for action in ("Decrypt", "GenerateDataKey")),
    ]


def check(stack: Stack, consumer: Consumer, models: str, calls: list[Call]) -> None:
    """Assert that the role allows all calls that are made, has no grant beyond them, and allows no near miss."""
    made = [*calls, *calls_of_lambda(stack, consumer)]
    needed = [*made, *calls_of_keys(made)]
    given = grants(stack.policy(consumer.role))
    assert denied(needed, given) == []
    assert superfluous(needed, given) == []
    beside = near_misses(stack, consumer, models)
    assert denied(beside, given) == beside


@pytest.mark.parametrize("consumer", [LIVE, SHADOW], ids=lambda consumer: consumer.function)
def test_a_role_is_just_enough_to_find_a_model_by_its_run(
    bucket: str, work: Callable[[dict[str, str], str], list[Call]], consumer: Consumer
) -> None:
    """The model is in MLflow 3's layout or in MLflow 2's, and everything is encrypted."""
    stack = deploy(ModelBucket=bucket, RunId=RUN_ID, ShadowRunId=RUN_ID, **KEYS)
    variables = stack.variables(consumer.function)
    calls = [call for place in PLACES[:2] for call in work(variables, place)]
    check(stack, consumer, bucket, calls)


@pytest.mark.parametrize("consumer", [LIVE, SHADOW], ids=lambda consumer: consumer.function)
def test_a_role_is_just_enough_to_read_a_model_in_its_place(
    bucket: str, work: Callable[[dict[str, str], str], list[Call]], consumer: Consumer
) -> None:
    """The model may be of any flavor, and everything is encrypted."""
    place = PLACES[2]
    stack = deploy(ModelBucket=bucket, ModelPath=place, ShadowModelPath=place, **KEYS)
    check(stack, consumer, bucket, work(stack.variables(consumer.function), place))


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"RunId": "new"}, f"1/{RUN_ID}/artifacts/model"),
        ({"ModelPath": "models/new", "PreviousModelPath": "models/old"}, "models/old"),
        ({"RunId": "new", "PreviousModelPath": "models/old"}, "models/old"),
    ],
    ids=["by its run", "in its place", "in its place, before a run"],
)
def test_the_previous_version_can_still_load_its_model(
    bucket: str, work: Callable[[dict[str, str], str], list[Call]], parameters: dict[str, str], place: str
) -> None:
    """During a canary it gets most batches, and it already has the role of the new version. It reads no third model."""
    stack = deploy(ModelBucket=bucket, **parameters)
    located = {"MODEL_LOCATION": f"s3://{bucket}/{place}", "MODEL_BUCKET": "", "RUN_ID": ""}
    last = located if "PreviousModelPath" in parameters else {"RUN_ID": RUN_ID}
    calls = work({**stack.variables("Consumer"), **last}, place)
    given = grants(stack.policy("ConsumerRole"))
    assert denied(calls, given) == []
    models = f"arn:aws:s3:::{bucket}"
    beside = [*(Call("s3:GetObject", f"{models}/models/{name}") for name in ("third/MLmodel", "old-2/MLmodel", "old"))]
    beside += [Call("s3:ListBucket", models, prefix) for prefix in ("models/", "models/old", "models/old-2/")]
    assert denied(beside, given) == beside


def test_a_role_without_keys_has_no_permission_for_kms(endpoint: str) -> None:
    """If the model is in the image, the role cannot read objects from S3 either."""
    stack = deploy(ImageModel="scripts/sample_model/model")
    services = {grant.action.partition(":")[0] for grant in grants(stack.policy("ConsumerRole"))}
    assert services == {"kinesis", "s3", "logs"}
    assert {grant.action for grant in grants(stack.policy("ConsumerRole"))} >= {"s3:PutObject"}
    assert "s3:GetObject" not in {grant.action for grant in grants(stack.policy("ConsumerRole"))}


@pytest.mark.parametrize("parameters", [LEAST, UNUSUAL, {"ImageModel": "folder"}], ids=" ".join)
def test_only_lambda_can_assume_a_role_and_no_grant_is_for_everything(parameters: dict[str, str]) -> None:
    """A role has only its own statements. CodeDeploy's role is left out, because SAM writes it."""
    roles = resources_of("AWS::IAM::Role", **parameters)
    del roles["CodeDeployServiceRole"]
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    for role in roles.values():
        assert set(role) == {"AssumeRolePolicyDocument", "Policies"}
        assert role["AssumeRolePolicyDocument"] == {"Version": "2012-10-17", "Statement": [trust]}
        given = grants(statement for policy in role["Policies"] for statement in policy["PolicyDocument"]["Statement"])
        assert given
        assert [grant for grant in given if grant.resource == "*" or grant.prefix == "*" or "*" in grant.action] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: boto3.Session().client("s3").list_buckets(),
        lambda: boto3.Session(botocore_session=botocore.session.get_session()).client("sqs").list_queues(),
        lambda: boto3.client("s3").put_object(Bucket="bucket", Key="key", Tagging="a=b"),
        lambda: boto3.client("s3").get_object_tagging(Bucket="bucket", Key="key"),
        lambda: boto3.client("s3").get_object(Bucket="bucket", Key="key", VersionId="1"),
        lambda: boto3.client("kinesis").put_record(StreamName="stream", PartitionKey="key", Data=b""),
        lambda: boto3.client("sts").get_caller_identity(),
    ],
    ids=["a session", "a botocore session", "a tag", "tags", "a version", "one record", "another service"],
)
def test_a_call_that_the_roles_do_not_know_fails(recording: Recording, call: Callable[[], object]) -> None:
    """Whoever adds a call to the code has to look at the roles."""
    with recording() as faulty, contextlib.suppress(ClientError):
        call()
    (request,) = faulty.requests
    with pytest.raises(AssertionError, match="is a new call"):
        as_calls(request)
