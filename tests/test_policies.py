"""The roles: each call that is made is allowed, and nothing is that no call needs."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from artifacts import S3Artifact
from tests.builders import kinesis_event, ride_event
from tests.conftest import SAMPLE_MODEL
from tests.deployment import Stack, deploy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "arn:aws:kms:us-east-1:123456789012:key/"
KEYS = {f"{name}KeyArn": f"{KEY}{name.lower()}" for name in ("Input", "Output", "Failures", "Model")}

RUN_ID = "a74aaab7ca9e444ca8fc468eb4bd20e7"
"""The run that logged the sample model."""

POLLING = ("DescribeStream", "DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards")
"""What a mapping does to its stream (Lambda developer guide, "Configure your Lambda function's execution role")."""

LOGGING = ("CreateLogStream", "PutLogEvents")
"""What Lambda does to a log group that there is already (Lambda developer guide, "Sending logs to CloudWatch")."""


@dataclass(frozen=True)
class Call:
    """A request as IAM sees it."""

    action: str
    resource: str
    prefix: str | None = None
    """The value of ``s3:prefix``, in a request that has one."""


@dataclass(frozen=True)
class Grant:
    """The least that a statement is made of: one action on one resource, with one value of its condition."""

    action: str
    resource: str
    prefix: str | None = None

    def allows(self, call: Call) -> bool:
        """Return whether the call is one of those granted."""
        allowed = self.action == call.action and fnmatchcase(call.resource, self.resource)
        return allowed and (self.prefix is None or (call.prefix is not None and fnmatchcase(call.prefix, self.prefix)))


def grants(statements: Iterable[dict[str, Any]]) -> list[Grant]:
    """Take statements apart. Whatever is in them beside actions, resources and ``s3:prefix`` fails the test."""
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
    """Return the values of an element of a policy, where one may stand without brackets."""
    return value if isinstance(value, list) else [value]


def denied(calls: Iterable[Call], given: Sequence[Grant]) -> list[Call]:
    """Return the calls that no grant allows."""
    return [call for call in calls if not any(grant.allows(call) for grant in given)]


def superfluous(calls: Sequence[Call], given: Sequence[Grant]) -> list[Grant]:
    """Return the grants without which every call would still be allowed."""
    return [grant for grant in given if not denied(calls, [other for other in given if other is not grant])]


def as_calls(operation: str, parameters: dict[str, Any], missing: bool) -> list[Call]:
    """Return what IAM is asked for a request of the function; one that is not known here fails the test."""
    bucket = f"arn:aws:s3:::{parameters.get('Bucket')}"
    match operation:
        case "PutRecords":
            stream = f"arn:aws:kinesis:us-east-1:123456789012:stream/{parameters['StreamName']}"
            return [Call("kinesis:PutRecords", stream)]
        case "ListObjectsV2":
            return [Call("s3:ListBucket", bucket, parameters["Prefix"])]
        case "GetObject" if missing:
            # Whoever may not list the bucket, and not just a prefix of it, is told 403 instead of 404 (S3 API
            # reference, GetObject, "Permissions").
            return [Call("s3:GetObject", f"{bucket}/{parameters['Key']}"), Call("s3:ListBucket", bucket)]
        case "GetObject" | "PutObject":
            return [Call(f"s3:{operation}", f"{bucket}/{parameters['Key']}")]
    raise AssertionError(f"{operation} is a new call: the roles in template.yaml need a permission for it")


@dataclass(frozen=True)
class Consumer:
    """A function of the template, with the names of what belongs to it."""

    function: str
    role: str
    logs: str
    mapping: str
    keeps_what_is_given_up: bool


LIVE = Consumer("Consumer", "ConsumerRole", "ConsumerLogs", "ConsumerRides", keeps_what_is_given_up=True)
SHADOW = Consumer("ShadowConsumer", "ShadowRole", "ShadowLogs", "ShadowConsumerRides", keeps_what_is_given_up=False)


@pytest.fixture
def recorded(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], bool]]:
    """Give the list to which every client made from now on adds its requests: operation, parameters, 404 or not."""
    requests: list[tuple[str, dict[str, Any], bool]] = []
    session = boto3.Session()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)

    def begin(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["asked"] = dict(params)

    def end(model: Any, context: dict[str, Any], parsed: dict[str, Any], **_: Any) -> None:
        missing = parsed.get("Error", {}).get("Code") == "NoSuchKey"
        requests.append((model.name, context["asked"], missing))

    session.events.register("provide-client-params", begin)
    session.events.register("after-call", end)
    return requests


@pytest.fixture
def work(
    s3: "S3Client",
    bucket: str,
    recorded: list[tuple[str, dict[str, Any], bool]],
    cold_start: Callable[..., ModuleType],
) -> Callable[[dict[str, str], str], list[Call]]:
    """Give a function that lays the model into a place, lets the consumer do all that it can, and returns its calls."""

    def let_work(variables: dict[str, str], place: str) -> list[Call]:
        for path in Path(SAMPLE_MODEL).iterdir():
            s3.put_object(Bucket=bucket, Key=f"{place}/{path.name}", Body=path.read_bytes())
        recorded.clear()
        function = cold_start(**{"MODEL_LOCATION": "", **variables})
        answer = function.lambda_handler(kinesis_event(ride_event(), b"no ride"))
        assert answer == {"batchItemFailures": []}
        if location := variables.get("MODEL_LOCATION"):
            # What model.py reads of a model of another flavor than scikit-learn: the whole folder.
            S3Artifact(location).names()
        return [call for request in recorded for call in as_calls(*request)]

    return let_work


def calls_of_lambda(stack: Stack, consumer: Consumer) -> list[Call]:
    """Return the calls that Lambda makes with the function's role: polling, logging, and keeping what is given up."""
    group = f"arn:aws:logs:us-east-1:123456789012:log-group:{stack.resources[consumer.logs]}:log-stream:2026/11/21/a"
    failures = f"arn:aws:s3:::{stack.resources['FailuresBucket']}"
    # Lambda developer guide, "Retain discarded batch records for a Kinesis Data Streams event source".
    given_up = f"{failures}/aws/lambda/{stack.resources[consumer.mapping]}/shardId-000000000000/2026/11/21/a"
    keeping = [Call("s3:PutObject", given_up), Call("s3:ListBucket", failures)]
    return [
        *(Call(f"kinesis:{action}", stack.outputs["InputStreamArn"]) for action in POLLING),
        *(Call(f"logs:{action}", group) for action in LOGGING),
        *(keeping if consumer.keeps_what_is_given_up else []),
    ]


def calls_of_keys(calls: Iterable[Call]) -> list[Call]:
    """Return what it takes to read and write what KMS keys encrypt, as Kinesis and S3 do on behalf of the caller."""
    needed = {
        "kinesis:GetRecords": Call("kms:Decrypt", KEYS["InputKeyArn"]),
        "kinesis:PutRecords": Call("kms:GenerateDataKey", KEYS["OutputKeyArn"]),
        "s3:PutObject": Call("kms:GenerateDataKey", KEYS["FailuresKeyArn"]),
        "s3:GetObject": Call("kms:Decrypt", KEYS["ModelKeyArn"]),
    }
    return [needed[call.action] for call in calls if call.action in needed]


def check(stack: Stack, consumer: Consumer, calls: list[Call]) -> None:
    """Assert that the consumer's role allows what is called, and would not without any part of it."""
    made = [*calls, *calls_of_lambda(stack, consumer)]
    needed = [*made, *calls_of_keys(made)]
    given = grants(stack.policy(consumer.role))
    assert denied(needed, given) == []
    assert superfluous(needed, given) == []


@pytest.mark.parametrize("consumer", [LIVE, SHADOW], ids=lambda consumer: consumer.function)
def test_a_role_is_just_enough_to_find_a_model_by_its_run(
    bucket: str, work: Callable[[dict[str, str], str], list[Call]], consumer: Consumer
) -> None:
    """In MLflow 3's layout and in MLflow 2's, with everything encrypted."""
    stack = deploy(ModelBucket=bucket, RunId=RUN_ID, ShadowRunId=RUN_ID, **KEYS)
    variables = stack.variables(consumer.function)
    calls = work(variables, "1/models/m-0/artifacts") + work(variables, f"1/{RUN_ID}/artifacts/model")
    check(stack, consumer, calls)


@pytest.mark.parametrize("consumer", [LIVE, SHADOW], ids=lambda consumer: consumer.function)
def test_a_role_is_just_enough_to_read_a_model_in_its_place(
    bucket: str, work: Callable[[dict[str, str], str], list[Call]], consumer: Consumer
) -> None:
    """Of whatever flavor, with everything encrypted."""
    stack = deploy(ModelBucket=bucket, ModelPath="some/model", ShadowModelPath="some/model", **KEYS)
    check(stack, consumer, work(stack.variables(consumer.function), "some/model"))


@pytest.mark.parametrize(
    ("parameters", "place"),
    [({"RunId": "new"}, f"1/{RUN_ID}/artifacts/model"), ({"ModelPath": "models/new"}, "models/old")],
    ids=["by its run", "in its place"],
)
def test_the_last_version_can_still_load_its_model(
    bucket: str, work: Callable[[dict[str, str], str], list[Call]], parameters: dict[str, str], place: str
) -> None:
    """The role is that of the new one already while most batches, in a canary, go to the last one."""
    stack = deploy(ModelBucket=bucket, **parameters)
    last = {"RUN_ID": RUN_ID} if "RunId" in parameters else {"MODEL_LOCATION": f"s3://{bucket}/{place}"}
    calls = work({**stack.variables("Consumer"), **last}, place)
    assert denied(calls, grants(stack.policy("ConsumerRole"))) == []


def test_without_keys_a_role_has_no_permission_for_any(endpoint: str) -> None:
    """Nor for a bucket of models, where the model is in the image."""
    stack = deploy(ModelPath="/opt/model")
    services = {grant.action.partition(":")[0] for grant in grants(stack.policy("ConsumerRole"))}
    assert services == {"kinesis", "s3", "logs"}
    assert {grant.action for grant in grants(stack.policy("ConsumerRole"))} >= {"s3:PutObject"}
    assert "s3:GetObject" not in {grant.action for grant in grants(stack.policy("ConsumerRole"))}


def test_a_call_that_the_roles_do_not_know_fails() -> None:
    """So nobody adds one to the code without looking at the roles."""
    with pytest.raises(AssertionError, match="DeleteObject is a new call"):
        as_calls("DeleteObject", {"Bucket": "bucket", "Key": "key"}, False)
