"""Every manifest passes a strict reading: schemas closed to unknown fields, the operator's own rules, this project's promises."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from jobs.kubernetes import MANIFESTS, OVERLAYS, Deployment, render, to_yaml
from jobs.kustomize import build
from jobs.spec import RunSpec
from tests.k8s import make_schemas
from tests.k8s.validation import KUBERAY, problems

SPEC = RunSpec(
    dataset="imagenet-val", methods=('integrated_gradients(n_steps=20, at="layer4")', "gradient_shap"), model="resnet50"
)
OUTPUTS = (None, "s3://bucket/runs/one", "/runs/mine")
JOB = MANIFESTS / "components" / "job"
VOLUME = MANIFESTS / "components" / "volume"


def one_line_each(resources):
    return [f"{resource['kind']}: {problem}" for resource in resources for problem in problems(resource)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_standing_cluster_is_valid(overlay):
    resources = build(MANIFESTS / "overlays" / overlay)
    assert one_line_each(resources) == []
    assert [resource["kind"] for resource in resources].count("RayCluster") == 1


@pytest.mark.parametrize(
    ("overlay", "output", "queue", "workers"),
    list(itertools.product(OVERLAYS, OUTPUTS, (None, "research"), (None, 1, 33))),
)
def test_whatever_is_rendered_is_valid(overlay, output, queue, workers):
    spec = RunSpec(dataset="sample", methods=SPEC.methods, model="resnet50", output=output, workers=workers)
    deployment = Deployment(overlay=overlay, queue=queue, namespace="explain", image="registry.example/ascribe:0.1.0")
    resources = render(spec, deployment)
    assert one_line_each(resources) == []
    assert list(yaml.safe_load_all(to_yaml(resources))) == resources


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    "components", [(), (VOLUME,), (JOB,), (VOLUME, JOB)], ids=lambda paths: "+".join(p.name for p in paths)
)
def test_kustomize_builds_the_same(overlay, components, tmp_path):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, whose kustomize is the reference, is not on this machine")
    shutil.copytree(MANIFESTS, tmp_path / "k8s")
    if overlay == "cpu-local":  # has its volume already
        components = tuple(path for path in components if path != VOLUME)
    plan = {
        "resources": [f"../k8s/overlays/{overlay}"],
        "components": [f"../k8s/components/{path.name}" for path in components],
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(json.dumps(plan))
    done = subprocess.run([kubectl, "kustomize", tmp_path / "mine"], capture_output=True, text=True, check=True)
    theirs = {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}
    ours = {resource["kind"]: resource for resource in build(MANIFESTS / "overlays" / overlay, components)}
    assert ours == theirs


def test_schema_is_made_from_the_definitions():
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's definitions (ray-operator/config/crd/bases of v1.7.0)")
    roots = dict(make_schemas.kind_schema(Path(folder) / f"ray.io_{name}.yaml") for name in ("rayclusters", "rayjobs"))
    assert make_schemas.share(roots) == KUBERAY
