"""docs/web-service.md and docs/kubernetes.yaml fit the service, its image and Kubernetes."""

import json
import re
from collections import Counter

import kubernetes_validate
import pytest
import yaml

from scripts.image.web_container import MEMORY_MB
from scripts.image.web_scenarios import USER
from settings import WebSettings
from tests.deploy.deployment import evaluated
from tests.deploy.test_policies import grants
from tests.test_docs import documented, section
from tests.tools import ROOT
from web import openapi

PAGE = (ROOT / "docs" / "web-service.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MANIFEST = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())}
POD = MANIFEST["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def test_the_page_has_every_route() -> None:
    """Routes with a version of the model are left out, because they do the same as the routes without a version."""
    paths = openapi.make_document(model="m", version="1", field="duration", unit="minutes")["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert documented(section(ROOT / "docs" / "web-service.md", "## Routes")) == Counter(
        route for route in routes if "/versions/" not in route
    )


@pytest.mark.parametrize("kind", MANIFEST)
def test_kubernetes_accepts_the_manifest(kind: str) -> None:
    """The schema of the newest Kubernetes knows every field."""
    kubernetes_validate.validate(MANIFEST[kind], kubernetes_validate.latest_version(), strict=True)


def test_the_schema_refuses_an_unknown_field() -> None:
    """Otherwise the test before this one would prove nothing."""
    misspelt = {**MANIFEST["Service"], "spec": {"selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, kubernetes_validate.latest_version(), strict=True)


def test_the_parts_of_the_manifest_find_each_other() -> None:
    """The service and the disruption budget select the pods, which use the account."""
    labels = POD["metadata"]["labels"]
    assert MANIFEST["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFEST["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFEST["Service"]["spec"]["selector"] == labels
    assert POD["spec"]["serviceAccountName"] == MANIFEST["ServiceAccount"]["metadata"]["name"]


def test_everything_looks_for_the_port_on_which_the_image_listens() -> None:
    """The image names it twice: for its server, and for people."""
    (port,) = CONTAINER["ports"]
    assert set(re.findall(r"(?:EXPOSE |PORT=)(\d+)", DOCKERFILE)) == {str(port["containerPort"])}
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    ports = [MANIFEST["Service"]["spec"]["ports"][0]["targetPort"]]
    ports += [CONTAINER[probe]["httpGet"]["port"] for probe in PROBES]
    assert set(ports) == {port["name"]}


def test_the_probes_and_prometheus_ask_for_routes_of_the_service() -> None:
    """A path that does not exist would make Kubernetes restart the container for ever."""
    paths = {CONTAINER[probe]["httpGet"]["path"] for probe in PROBES}
    paths.add(POD["metadata"]["annotations"]["prometheus.io/path"])
    assert paths <= set(openapi.make_document(model="m", version="1", field="duration", unit="minutes")["paths"])


def test_a_pod_is_as_confined_as_the_image_was_tested() -> None:
    """Kubernetes refuses to run an image as root, so the user is a number: a name would not say whether it is root."""
    assert set(re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)) == {f"{USER}:{USER}"}
    assert POD["spec"]["securityContext"]["runAsNonRoot"]
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not context["allowPrivilegeEscalation"]
    assert CONTAINER["resources"]["limits"]["memory"] == f"{MEMORY_MB}Mi"


def test_kubernetes_waits_until_the_service_has_answered_everything() -> None:
    """The limit of gunicorn itself is shorter, because gunicorn logs the workers that it kills."""
    variables = {one["name"]: one["value"] for one in CONTAINER["env"]}
    settings = WebSettings.from_environment(variables)
    (limit,) = re.findall(r"^graceful_timeout = (\d+)$", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert settings.drain_seconds < int(limit) < POD["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("variables", "parameters"),
    [
        ("MODEL_LOCATION", {"ModelPath": "1/models/m-0123/artifacts", "RunId": ""}),
        ("MODEL_BUCKET", {"ModelPath": "", "RunId": "e1efc53e9bd149078b0c12aeaa6365df"}),
    ],
)
def test_a_policy_is_the_part_of_the_functions_that_reads_its_model(variables: str, parameters: dict[str, str]) -> None:
    """Other tests prove that this part allows every call and nothing that no call needs."""
    (text,) = re.findall(rf"`{variables}`[^`]*:\n\n```json\n(.*?)```", PAGE, re.DOTALL)
    (policy,) = evaluated(ModelBucket="my-models", **parameters).resources()["ConsumerRole"]["Properties"]["Policies"]
    function = [one for one in policy["PolicyDocument"]["Statement"] if one["Sid"] in ("ReadModel", "FindModel")]
    assert set(grants(json.loads(text)["Statement"])) == set(grants(function))
