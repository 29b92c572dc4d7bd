"""What a cluster would say of a manifest, without one: strict schemas, the operator's own rules, and what this project promises."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate

from tests.k8s import operator_rules, promises

KUBERNETES = "1.33"
SCHEMAS = Path(__file__).parent / "schemas"
KUBERAY = json.loads((SCHEMAS / "kuberay-v1.7.0.json").read_text())
# The two kinds of the Prometheus operator, in our words: the fields that k8s/monitoring uses and no others.
PROMETHEUS = json.loads((SCHEMAS / "prometheus-operator.json").read_text())


def problems(resource: dict) -> list[str]:
    """Everything that is wrong, one line each; nothing for a good manifest."""
    found = list(schema_problems(resource))
    if found:  # the rules below may rely on the shape
        return found
    return [*operator_rules.problems(resource), *promises.problems(resource)]


def schema_problems(resource: dict) -> Iterator[str]:
    kind = resource.get("kind")
    for schemas in (KUBERAY, PROMETHEUS):
        if kind in schemas["kinds"]:
            for error in validator(kind).iter_errors(resource):
                yield f"{kind}.{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
            return
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        yield f"{kind}: {str(error)[:200]}"


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    schemas = KUBERAY if kind in KUBERAY["kinds"] else PROMETHEUS
    return jsonschema.Draft202012Validator({**schemas["kinds"][kind], "$defs": schemas["$defs"]})
