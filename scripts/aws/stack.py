"""Reads a CloudFormation stack of the account."""

from dataclasses import dataclass

import boto3
from botocore.exceptions import ClientError


@dataclass(frozen=True)
class DeployedStack:
    """A stack's parameters and outputs: values by name."""

    parameters: dict[str, str]
    outputs: dict[str, str]


def find_stack(name: str) -> DeployedStack | None:
    """Return a stack of the default session's account and region, or None if it does not exist.

    Raises ClientError if CloudFormation answers with another error.
    """
    try:
        (stack,) = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        # The error code is ValidationError for a malformed name too, so only the message tells them apart.
        if "does not exist" in str(error):
            return None
        raise
    return DeployedStack(
        parameters={one["ParameterKey"]: one["ParameterValue"] for one in stack.get("Parameters", [])},
        outputs={one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])},
    )
