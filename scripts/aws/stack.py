"""A CloudFormation stack as it stands in the account."""

from dataclasses import dataclass

import boto3
from botocore.exceptions import ClientError


@dataclass(frozen=True)
class DeployedStack:
    """The values of a stack's parameters, and its outputs, by name."""

    parameters: dict[str, str]
    outputs: dict[str, str]


def find_stack(name: str) -> DeployedStack | None:
    """Return the stack of that name in the default session's account and region; None where there is none.

    Raises:
        ClientError: where CloudFormation does not say.
    """
    try:
        (stack,) = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        # The code alone does not tell: a malformed name is a ValidationError too.
        if "does not exist" in str(error):
            return None
        raise
    return DeployedStack(
        parameters={one["ParameterKey"]: one["ParameterValue"] for one in stack.get("Parameters", [])},
        outputs={one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])},
    )
