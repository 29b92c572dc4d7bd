"""Reads the part of kustomize's language that k8s/ is written in, so that rendering a run needs no program beside Python.

The same files work with `kubectl kustomize`, and a test holds the two against each other. What is not understood is refused, never skipped.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

_UNDERSTOOD = {"apiVersion", "kind", "resources", "components", "patches", "images", "replacements"}


def build(folder: Path, components: tuple[Path, ...] = ()) -> list[Resource]:
    """The resources of a kustomization, with further components on top."""
    resources = extend([], folder)
    for component in components:
        resources = extend(resources, component)
    return resources


def extend(resources: list[Resource], folder: Path) -> list[Resource]:
    """Resources after a kustomization: kustomize's own order is resources, components, patches, images, replacements."""
    (plan,) = _documents(folder / "kustomization.yaml")
    if unknown := sorted(plan.keys() - _UNDERSTOOD):
        raise ValueError(f"{folder}: {', '.join(unknown)} is beyond this renderer (use: kubectl kustomize {folder})")
    for name in plan.get("resources", ()):
        path = folder / name
        resources = resources + (build(path) if path.is_dir() else _documents(path))
    for name in plan.get("components", ()):
        resources = extend(resources, folder / name)
    for patch in plan.get("patches", ()):
        resources = _patched(resources, patch)
    for image in plan.get("images", ()):
        for container in containers(resources):
            name = container["image"].partition(":")[0]
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image['newTag']}"
    for replacement in plan.get("replacements", ()):
        _replace(resources, replacement)
    return resources


def _documents(path: Path) -> list[Resource]:
    # Through JSON: YAML's anchors make several places share one object, and a patch of one must not reach the others.
    parsed = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return [json.loads(json.dumps(document)) for document in parsed if document is not None]


def _patched(resources: list[Resource], patch: dict[str, Any]) -> list[Resource]:
    change = yaml.safe_load(patch["patch"])
    if isinstance(change, list):  # JSON patch, RFC 6902
        for resource in _selected(resources, patch["target"]):
            for operation in change:
                _operate(resource, operation)
        return resources
    if change.get("$patch") == "delete":
        gone = (change["kind"], change["metadata"]["name"])
        return [resource for resource in resources if (resource["kind"], resource["metadata"]["name"]) != gone]
    raise ValueError(f"patch {patch['patch']!r} is neither a list of operations nor a deletion")


def _selected(resources: list[Resource], selector: dict[str, str]) -> list[Resource]:
    if unknown := sorted(selector.keys() - {"kind"}):
        raise ValueError(f"selecting by {', '.join(unknown)} is beyond this renderer; only by kind")
    return [resource for resource in resources if resource["kind"] == selector["kind"]]


def _operate(resource: Resource, operation: dict[str, Any]) -> None:
    *way, last = operation["path"].split("/")[1:]
    parent: Any = resource
    for step in way:
        parent = parent[int(step) if isinstance(parent, list) else step]
    key = int(last) if isinstance(parent, list) and last != "-" else last
    match operation["op"]:
        case "add" if key == "-":
            parent.append(copy.deepcopy(operation["value"]))
        case "add" if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(operation["value"]))
        case "add" | "replace":
            if operation["op"] == "replace":
                parent[key]  # what isn't there can't be replaced
            parent[key] = copy.deepcopy(operation["value"])
        case "remove":
            del parent[key]
        case other:
            raise ValueError(f"patch operation {other!r} is beyond this renderer; add, replace and remove are not")


def _replace(resources: list[Resource], replacement: dict[str, Any]) -> None:
    source = replacement["source"]
    value: Any = _selected(resources, {"kind": source["kind"]})[0]
    for step in source["fieldPath"].split("."):
        value = value[int(step) if isinstance(value, list) else step]
    for target in replacement["targets"]:
        for resource in _selected(resources, target["select"]):
            for path in target["fieldPaths"]:
                _operate(resource, {"op": "add", "path": "/" + path.replace(".", "/"), "value": value})


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Everything below that runs an image."""
    if isinstance(node, dict):
        if isinstance(node.get("image"), str):
            yield node
        for value in node.values():
            yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)
