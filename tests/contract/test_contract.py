"""The contract holds: whatever is sent, the service answers as openapi.json says, and never with a 5xx.

MOEPLACE_CONTRACT_EXAMPLES sets how many requests are made per operation; more than the default takes longer
than a test run should.
"""

import os
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from app.cli.openapi import files
from app.config import Settings
from app.main import create_app
from app.schema import ID_PATTERN
from tests.contract.conftest import CLUSTER, MODEL, NODES, Fleet

EXAMPLES = int(os.environ.get("MOEPLACE_CONTRACT_EXAMPLES", "12"))
CONTRACT: dict[str, Any] = create_app(Settings()).openapi()
SCHEMA = schemathesis.openapi.from_dict(CONTRACT)
REQUESTS = [
    pytest.param(path, method, mode, id=f"{operation['operationId']}-{mode.value}")
    for path, methods in CONTRACT["paths"].items()
    for method, operation in methods.items()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    # Where nothing can be given, nothing can be given wrong.
    if mode is GenerationMode.POSITIVE or operation.get("parameters") or operation.get("requestBody")
]
CHECKED = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]
_FORGETS = {"delete_model", "put_node", "drain_node"}
"""Not done to the one everything else is asked about."""


def known(case: Any, fleet: Fleet) -> None:
    """Ask about what exists, in three of four requests, and do not wait for it to change."""
    names = {
        "cluster_id": CLUSTER,
        "model_id": MODEL,
        "node_id": NODES[0],
        "optimization_id": fleet.optimization_id,
        "plan_id": fleet.plan_id,
    }
    operation = case.operation.definition.raw.get("operationId")
    for name, value in (case.path_parameters or {}).items():
        valid = isinstance(value, str) and re.fullmatch(ID_PATTERN, value)
        if name not in names or not valid or sum(value.encode()) % 4 == 0:
            continue
        if operation in _FORGETS and name != "cluster_id":
            continue
        case.path_parameters[name] = names[name]
    for name, value in list((case.headers or {}).items()):
        if name.lower() == "prefer" and "wait" in str(value):
            case.headers[name] = "wait=0"


@pytest.mark.parametrize(("path", "method", "mode"), REQUESTS)
def test_answers_are_as_documented(fleet: Fleet, path: str, method: str, mode: GenerationMode) -> None:
    """No 5xx, no status, content type, header or body that is not documented, for good and bad requests."""
    operation = SCHEMA[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        known(case, fleet)
        case.call_and_validate(base_url=fleet.url, checks=CHECKED)

    ask()


def test_committed_contract_is_the_codes() -> None:
    """openapi/openapi.json and the examples beside it are what the code gives."""
    folder = Path(__file__).parents[2] / "openapi"
    expected = files()
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.json")}
    assert sorted(found) == sorted(expected)
    for name, text in expected.items():
        assert found[name] == text, f"openapi/{name} has drifted: run moeplace openapi --output openapi"


def test_every_operation_documents_its_problems() -> None:
    """Every operation has an id of its own, and every error it documents is a problem in JSON."""
    ids = []
    for path, methods in CONTRACT["paths"].items():
        for method, operation in methods.items():
            ids.append(operation["operationId"])
            for status, response in operation["responses"].items():
                if status >= "400":
                    if "$ref" in response:
                        response = CONTRACT["components"]["responses"][response["$ref"].rpartition("/")[2]]
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
            if path.startswith("/v1/"):
                assert {"422", "500", "503"} <= operation["responses"].keys(), (path, method)
    assert len(set(ids)) == len(ids)


def test_examples_are_valid() -> None:
    """Each example of a request's body is valid by the schema it documents."""
    definitions = {"components": CONTRACT["components"]}
    judged = 0
    for methods in CONTRACT["paths"].values():
        for operation in methods.values():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                for example in content.get("examples", {}).values():
                    if "json" in media_type and "value" in example and not isinstance(example["value"], str):
                        validator = jsonschema_rs.validator_for({**content["schema"], **definitions})
                        validator.validate(example["value"])
                        judged += 1
    assert judged >= 10
