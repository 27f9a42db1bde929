"""CloudFormation's rules, conditions and functions, evaluated for a template and its parameters."""

import re
from collections.abc import Mapping
from typing import Any

PSEUDO_PARAMETERS = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "my-stack",
}

NOTHING = object()
"""The value of AWS::NoValue: a property with this value is left out."""


class Evaluation:
    """A template with values for its parameters.

    Values that CloudFormation knows only after it has created a resource stand in angle brackets: ``<FailuresBucket>``
    for a reference to the resource, ``<FailuresBucket.Arn>`` for an attribute.
    """

    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        """Take a template without macros, and the parameters that do not have their defaults."""
        self._template = template
        defaults = {name: one["Default"] for name, one in template["Parameters"].items() if "Default" in one}
        values = {**defaults, **parameters}
        assert set(values) == set(template["Parameters"])
        numbers = {name for name, one in template["Parameters"].items() if one["Type"] == "Number"}
        self._values = {name: int(value) if name in numbers else value for name, value in values.items()}

    def resources(self) -> dict[str, dict[str, Any]]:
        """Return the resources that are created, by their logical names."""
        return self._existing("Resources")

    def outputs(self) -> dict[str, str]:
        """Return the values of the outputs whose conditions hold, by name."""
        return {name: output["Value"] for name, output in self._existing("Outputs").items()}

    def broken_rules(self) -> list[str]:
        """Return the descriptions of the assertions that do not hold."""
        return [
            assertion["AssertDescription"]
            for rule in self._template.get("Rules", {}).values()
            if self._value(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
            if not self._value(assertion["Assert"])
        ]

    def _existing(self, section: str) -> dict[str, dict[str, Any]]:
        return {
            name: {key: self._value(value) for key, value in one.items() if key != "Condition"}
            for name, one in self._template[section].items()
            if "Condition" not in one or self._holds(one["Condition"])
        }

    def _holds(self, condition: str) -> bool:
        return bool(self._value(self._template["Conditions"][condition]))

    def _value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [value for value in map(self._value, node) if value is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, argument),) = node.items()
            if name.startswith("Fn::") or name == "Ref" or (name == "Condition" and isinstance(argument, str)):
                return self._call(name, argument)
        values = {key: self._value(value) for key, value in node.items()}
        return {key: value for key, value in values.items() if value is not NOTHING}

    def _call(self, function: str, argument: Any) -> Any:
        match function, argument:
            case "Ref", name:
                return self._referred(name)
            case "Fn::GetAtt", [name, attribute]:
                return f"<{name}.{attribute}>"
            case "Fn::If", [condition, yes, no]:
                return self._value(yes if self._holds(condition) else no)
            case "Fn::Sub", [text, variables]:
                return self._substituted(text, {name: self._value(value) for name, value in variables.items()})
            case "Fn::Sub", text:
                return self._substituted(text, {})
            case "Fn::Select", [index, values]:
                return self._value(values)[int(index)]
            case "Fn::Split", [separator, text]:
                return self._value(text).split(separator)
            case "Condition", name:
                return self._holds(name)
            case "Fn::Equals", [one, other]:
                return str(self._value(one)) == str(self._value(other))
            case "Fn::Not", [condition]:
                return not self._value(condition)
            case "Fn::And", conditions:
                return all(map(self._value, conditions))
            case "Fn::Or", conditions:
                return any(map(self._value, conditions))
        raise NotImplementedError(f"{function}: {argument}")

    def _referred(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NOTHING
        if name in self._template["Resources"]:
            return f"<{name}>"
        return {**PSEUDO_PARAMETERS, **self._values}[name]

    def _substituted(self, text: str, variables: Mapping[str, str]) -> str:
        def found(match: re.Match[str]) -> str:
            name = match[1]
            return str(variables[name] if name in variables else f"<{name}>" if "." in name else self._referred(name))

        return re.sub(r"\$\{([^}!]+)\}", found, text)
