"""What `render` puts into a manifest is what was asked for, and what can't work in a cluster is said before anything is applied."""

import dataclasses

import pytest
import yaml

from jobs import kubernetes
from jobs.kubernetes import Deployment, DeploymentError, apply, job_name, render, to_yaml
from jobs.kustomize import build
from jobs.spec import RunSpec

SPEC = RunSpec(dataset="imagenet-val", methods=('integrated_gradients(n_steps=20, at="layer4")',), model="resnet50")


def of_kind(resources, kind):
    (resource,) = (each for each in resources if each["kind"] == kind)
    return resource


def groups(resources):
    return {
        group["groupName"]: group
        for group in of_kind(resources, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    }


def images(node):
    if isinstance(node, dict):
        return {node["image"]} if "image" in node else set().union(*map(images, node.values()), set())
    return set().union(*map(images, node), set()) if isinstance(node, list) else set()


def test_run_travels_whole(tmp_path):
    """Expressions with brackets, quotes and blanks reach `submit --spec` unchanged."""
    resources = render(dataclasses.replace(SPEC, workers=3, filter="label < 10"), Deployment())
    (tmp_path / "run.yaml").write_text(of_kind(resources, "ConfigMap")["data"]["run.yaml"])
    carried = RunSpec.from_file(tmp_path / "run.yaml")
    name = job_name(dataclasses.replace(SPEC, filter="label < 10"))
    assert carried == dataclasses.replace(
        SPEC, workers=3, filter="label < 10", output=f"/runs/{name}", gpus_per_worker=1.0, stall_timeout_s=3600.0
    )


def test_names_agree():
    resources = render(
        SPEC, Deployment(name="nightly", namespace="explain", image="registry.example/a@sha256:" + "0" * 64)
    )
    job, run = of_kind(resources, "RayJob"), of_kind(resources, "ConfigMap")
    volumes = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert job["metadata"]["name"] == run["metadata"]["name"] == "nightly"
    assert {"name": "run", "configMap": {"name": "nightly"}} in volumes
    assert {resource["metadata"]["namespace"] for resource in resources} == {"explain"}
    assert images(resources) == {"registry.example/a@sha256:" + "0" * 64}


def test_same_request_same_name():
    assert job_name(SPEC) == job_name(dataclasses.replace(SPEC, workers=9, output="s3://bucket/x"))
    assert job_name(SPEC) != job_name(dataclasses.replace(SPEC, seed=1))


@pytest.mark.parametrize("model", ["resnet50", "timm/" + "long" * 30, "3d.package:function", "résnet"])
def test_any_model_gives_a_name_that_kuberay_takes(model):
    Deployment(name=job_name(dataclasses.replace(SPEC, model=model, methods=("a" * 60,))))


def test_workers_bound_the_machines():
    some = groups(render(dataclasses.replace(SPEC, workers=9), Deployment()))
    assert (some["gpu"]["maxReplicas"], some["decode"]["maxReplicas"]) == (9, 3)
    local = groups(render(dataclasses.replace(SPEC, workers=2), Deployment(overlay="cpu-local")))
    assert local.keys() == {"decode"}
    assert local["decode"]["maxReplicas"] == 2


def test_without_a_number_the_run_asks_for_all_machines():
    """Workers that wait are what makes a cluster grow; asking for what is there would ask for none."""
    resources = render(SPEC, Deployment())
    run = yaml.safe_load(of_kind(resources, "ConfigMap")["data"]["run.yaml"])
    assert run["workers"] == groups(resources)["gpu"]["maxReplicas"] == 8


def test_workers_need_gpus_where_there_are_gpu_machines():
    """The cluster starts without a machine, so the driver can't count its GPUs."""
    for overlay, share in (("gpu", 1.0), ("cpu-local", 0.0)):
        run = of_kind(render(SPEC, Deployment(overlay=overlay)), "ConfigMap")["data"]["run.yaml"]
        assert yaml.safe_load(run)["gpus_per_worker"] == share


def test_machines_are_waited_for_longer_than_workers_elsewhere():
    """The first worker comes with a machine from nothing; a time that was asked for is kept."""
    run = of_kind(render(dataclasses.replace(SPEC, stall_timeout_s=60.0), Deployment()), "ConfigMap")["data"][
        "run.yaml"
    ]
    assert yaml.safe_load(run)["stall_timeout_s"] == 60.0
    assert (
        yaml.safe_load(of_kind(render(SPEC, Deployment()), "ConfigMap")["data"]["run.yaml"])["stall_timeout_s"] == 3600
    )


def test_bucket_needs_no_volume():
    kinds = {resource["kind"] for resource in render(dataclasses.replace(SPEC, output="s3://b/r"), Deployment())}
    assert "PersistentVolumeClaim" not in kinds
    assert "PersistentVolumeClaim" in {resource["kind"] for resource in render(SPEC, Deployment())}


def test_queue_fixes_the_size():
    resources = render(dataclasses.replace(SPEC, workers=5), Deployment(queue="research"))
    job = of_kind(resources, "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert [groups(resources)["gpu"][key] for key in ("replicas", "minReplicas", "maxReplicas")] == [5, 5, 5]


def test_metadata_is_dead_text_for_a_shell():
    resources = render(dataclasses.replace(SPEC, dataset="s3://b/$(reboot)`id`\\"), Deployment())
    assert of_kind(resources, "RayJob")["spec"]["metadata"]["dataset"] == "s3://b/_(reboot)_id__"


def test_groups_share_nothing():
    """The base writes equal parts once; changing one group's must not change another's."""
    cluster = of_kind(build(kubernetes.MANIFESTS / "base"), "RayCluster")["spec"]
    cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["volumeMounts"].append("x")
    assert "x" not in cluster["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: Deployment(overlay="gpu-spott"), "overlay 'gpu-spott' not found; there are: cpu-local, gpu, gpu-spot"),
        (lambda: Deployment(name="My_Run"), "name 'My_Run'"),
        (lambda: Deployment(name="a" * 48), "up to 47"),
        (lambda: Deployment(namespace="-x"), "namespace '-x'"),
        (lambda: Deployment(image="registry.example:5000/ascribe"), "has no tag"),
        (lambda: Deployment(image="ascribe:latest"), "latest"),
        (
            lambda: render(dataclasses.replace(SPEC, output="runs/here"), Deployment()),
            "'runs/here' is no place in a cluster",
        ),
    ],
)
def test_mistakes_are_named(make, answer):
    with pytest.raises(DeploymentError, match=r"^[^\n]+$") as caught:
        make()
    assert answer in str(caught.value)


def test_kubectl_gets_the_manifest(tmp_path, monkeypatch):
    program = tmp_path / "kubectl"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/manifest\necho created\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    manifest = to_yaml(render(SPEC, Deployment()))
    assert apply(manifest) == "created\n"
    assert (tmp_path / "arguments").read_text().split() == ["apply", "-f", "-"]
    assert (tmp_path / "manifest").read_text() == manifest
    program.write_text("#!/bin/sh\necho the server says no >&2\nexit 1\n")
    with pytest.raises(DeploymentError, match="the server says no"):
        apply(manifest)


def test_without_kubectl_the_way_out_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeploymentError, match="k8s render"):
        apply("")


@pytest.mark.parametrize(
    ("plan", "answer"),
    [
        ("namePrefix: x-", "namePrefix is beyond this renderer"),
        ("patches: [{target: {name: x}, patch: '[]'}]", "only by kind"),
        ("patches: [{target: {kind: Pod}, patch: 'spec: {}'}]", "neither a list of operations nor a deletion"),
        ("patches: [{target: {kind: Pod}, patch: '[{op: move, path: /kind}]'}]", "'move' is beyond"),
    ],
)
def test_what_the_reader_does_not_know_is_refused(plan, answer, tmp_path):
    (tmp_path / "pod.yaml").write_text("kind: Pod\nmetadata: {name: a}\n")
    (tmp_path / "kustomization.yaml").write_text(f"resources: [pod.yaml]\n{plan}\n")
    with pytest.raises(ValueError, match=answer):
        build(tmp_path)
