"""Turn KubeRay's CRDs into one small strict JSON schema, so that a misspelt field in a manifest is an error without a cluster.

    python tests/k8s/make_schemas.py FOLDER_WITH_THE_CRDS

An API server drops fields that it does not know and says nothing; here every object is closed. Descriptions go, and equal
subtrees (four pod templates) are written once: 2.3 MB of YAML become some 40 kB.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

VERSION = "v1.7.0"
TARGET = Path(__file__).parent / "schemas" / f"kuberay-{VERSION}.json"
LICENCE = (
    f"Derived from the custom resource definitions of KubeRay {VERSION} (https://github.com/ray-project/kuberay), Apache License 2.0;"
    " changed: descriptions and status removed, objects closed, equal parts shared. The licence's text: http://www.apache.org/licenses/LICENSE-2.0"
)
KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "required")
# The CRDs leave `metadata` of the top level to the API server.
METADATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as JSON schema understands it, with unknown fields refused."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]} | {key: schema[key] for key in ("pattern",) if key in schema}
    kept: dict[str, Any] = {key: schema[key] for key in KEPT if key in schema}
    if "items" in schema:
        kept["items"] = strict(schema["items"])
    if "properties" in schema:
        kept["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept["additionalProperties"] = False
    if schema.get("nullable"):
        kept["type"] = [kept["type"], "null"]
    return kept


def text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def share(roots: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write each subtree that occurs twice or more once, under $defs."""
    seen: Counter[str] = Counter()

    def count(schema: dict[str, Any]) -> None:
        seen[text(schema)] += 1
        if seen[text(schema)] == 1:
            for child in children(schema):
                count(child)

    for root in roots.values():
        count(root)
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def rewrite(schema: dict[str, Any]) -> dict[str, Any]:
        whole = text(schema)
        # A reference costs some 25 characters; below three times that it saves nothing.
        if seen[whole] > 1 and len(whole) > 75:
            if whole not in names:
                names[whole] = f"d{len(names)}"
                definitions[names[whole]] = inside(schema)
            return {"$ref": f"#/$defs/{names[whole]}"}
        return inside(schema)

    def inside(schema: dict[str, Any]) -> dict[str, Any]:
        copied = dict(schema)
        for key in ("items", "additionalProperties"):
            if isinstance(copied.get(key), dict):
                copied[key] = rewrite(copied[key])
        if "properties" in copied:
            copied["properties"] = {name: rewrite(value) for name, value in copied["properties"].items()}
        return copied

    kinds = {kind: rewrite(root) for kind, root in roots.items()}
    return {"$comment": LICENCE, "kinds": kinds, "$defs": definitions}


def children(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return found + list(schema.get("properties", {}).values())


def kind_schema(path: Path) -> tuple[str, dict[str, Any]]:
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    version = next(item for item in definition["spec"]["versions"] if item["storage"])
    spec = strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    kind = definition["spec"]["names"]["kind"]
    properties = {
        "apiVersion": {"enum": [f"{definition['spec']['group']}/{version['name']}"]},
        "kind": {"enum": [kind]},
        "metadata": METADATA,
        "spec": spec,
    }
    return kind, {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(properties),
        "properties": properties,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    roots = dict(kind_schema(folder / f"ray.io_{name}.yaml") for name in ("rayclusters", "rayjobs"))
    TARGET.write_text(json.dumps(share(roots), separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")
