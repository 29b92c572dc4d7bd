"""A run as a Kubernetes manifest: k8s/ with the run's own values in it, ready for `kubectl apply -f -`."""

import dataclasses
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from jobs.kustomize import Resource, build, containers, extend
from jobs.remote import metadata
from jobs.spec import STALL_TIMEOUT_S, RunSpec

MANIFESTS = Path(__file__).resolve().parent.parent / "k8s"  # beside the packages, in a checkout as in an installation
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
IMAGE_VARIABLE = "ASCRIBE_IMAGE"  # names the image where the command line does not
VOLUME = "/runs"  # where components/volume mounts the shared volume
WORKERS_PER_DECODER = 4  # a core decodes 100 images a second, a GPU explains fewer; a decoding machine has 4 cores
MACHINES_COME_S = 3600.0  # a spot machine is waited for, and then its image of some GB

# KubeRay names a cluster after the job and its services after the cluster, and a service's name ends at 63.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")
_BUCKET = re.compile(r"(s3|gs|az)://")
# KubeRay puts the metadata between double quotes into a shell's command line, where $, ` and \ would act.
_ACTIVE = re.compile(r"[^\w .:/@=,()+-]", re.ASCII)


class DeploymentError(ValueError):
    """Something about where a run shall go that its user can mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where a run goes; what is computed, and by how many workers, is the spec's."""

    overlay: str = "gpu"
    image: str | None = None
    name: str | None = None
    namespace: str | None = None
    queue: str | None = None  # of Kueue

    def __post_init__(self) -> None:
        if self.overlay not in OVERLAYS:
            raise DeploymentError(f"overlay {self.overlay!r} not found; there are: {', '.join(OVERLAYS)}")
        for what, name in (("name", self.name), ("namespace", self.namespace), ("queue", self.queue)):
            if name is not None and not _NAME.fullmatch(name):
                raise DeploymentError(
                    f"{what} {name!r}: up to 47 of a-z, 0-9 and -, beginning with a letter and not ending with -"
                )
        if self.image is not None and not re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", self.image):
            raise DeploymentError(f"image {self.image!r} has no tag; name the very image, as in {self.image}:0.1.0")
        if self.image is not None and self.image.endswith(":latest"):
            raise DeploymentError(f"image {self.image!r}: latest is another image every day; name the very image")


def render(spec: RunSpec, deployment: Deployment) -> list[Resource]:
    """The whole manifest of one run: applied, it makes a cluster, does the run, and takes the cluster away."""
    name = deployment.name or job_name(spec)
    spec = dataclasses.replace(spec, output=_output(spec, name))
    resources = _resources(deployment.overlay, has_volume=str(spec.output).startswith(f"{VOLUME}/"))
    (job,) = _of_kind(resources, "RayJob")
    spec = _sized(spec, job["spec"]["rayClusterSpec"]["workerGroupSpecs"])
    job["spec"]["metadata"] = {key: _ACTIVE.sub("_", value) for key, value in metadata(spec).items()}
    _write_run(resources, spec)
    _name(resources, job, name, deployment)
    if deployment.queue is not None:
        _queue(job, deployment.queue)
    return resources


def job_name(spec: RunSpec) -> str:
    """The request's name cut to what KubeRay takes; the same request gets the same name, so applying twice is applying once."""
    stem, _, digest = spec.request_id().rpartition("-")
    if not stem[:1].isalpha():
        stem = f"run-{stem}"
    return f"{stem[: 46 - len(digest)].rstrip('-')}-{digest}"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they read."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def to_yaml(resources: list[Resource]) -> str:
    return yaml.dump_all(resources, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def apply(manifest: str) -> str:
    """Hand a manifest to kubectl and give back its answer."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise DeploymentError("kubectl not found; write the manifest with `k8s render` and apply it where there is one")
    done = subprocess.run(  # noqa: S603  the program that PATH names, and a manifest of our own on its standard input
        [kubectl, "apply", "-f", "-"], input=manifest, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DeploymentError(f"kubectl apply failed: {' '.join(done.stderr.split())}")
    return done.stdout


def _output(spec: RunSpec, name: str) -> str:
    output = spec.output or f"{VOLUME}/{name}"
    if not _BUCKET.match(output) and not output.startswith(f"{VOLUME}/"):
        raise DeploymentError(
            f"output {output!r} is no place in a cluster; give a bucket (s3://bucket/run) or a path below {VOLUME}/"
        )
    return output


def _resources(overlay: str, *, has_volume: bool) -> list[Resource]:
    folder, components = MANIFESTS / "overlays" / overlay, MANIFESTS / "components"
    resources = build(folder)
    if has_volume and not _of_kind(resources, "PersistentVolumeClaim"):  # some overlays bring it
        resources = extend(resources, components / "volume")
    return extend(resources, components / "job")


def _sized(spec: RunSpec, groups: list[Resource]) -> RunSpec:
    """Room for the run's workers, and a run that asks for all the room.

    The cluster starts with no machine but the head: there is no GPU to count, and only workers that wait make it grow.
    """
    named = {group["groupName"]: group for group in groups}
    working = named.get("gpu", named["decode"])
    workers = spec.workers or int(working["maxReplicas"])
    if "gpu" in named:
        named["decode"]["maxReplicas"] = math.ceil(workers / WORKERS_PER_DECODER)
    working["maxReplicas"] = workers
    gpus = float("gpu" in named) if spec.gpus_per_worker is None else spec.gpus_per_worker
    patience_s = MACHINES_COME_S if spec.stall_timeout_s == STALL_TIMEOUT_S else spec.stall_timeout_s
    return dataclasses.replace(spec, workers=workers, gpus_per_worker=gpus, stall_timeout_s=patience_s)


def _of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def _name(resources: list[Resource], job: Resource, name: str, deployment: Deployment) -> None:
    job["metadata"]["name"] = name
    (run,) = _of_kind(resources, "ConfigMap")
    run["metadata"]["name"] = name
    for volume in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["name"] = name
    if deployment.namespace is not None:
        for resource in resources:
            resource["metadata"]["namespace"] = deployment.namespace
    if deployment.image is not None:
        for container in containers(job):
            container["image"] = deployment.image


def _write_run(resources: list[Resource], spec: RunSpec) -> None:
    """The spec as `submit --spec` reads it; what is left to the planner stays out."""
    (run,) = _of_kind(resources, "ConfigMap")
    chosen = {key: value for key, value in spec.to_json().items() if value is not None}
    run["data"] = {"run.yaml": yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)}


def _queue(job: Resource, queue: str) -> None:
    """Kueue admits a job whole: its size is fixed beforehand, and nothing scales it."""
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = queue
    cluster = job["spec"]["rayClusterSpec"]
    cluster["enableInTreeAutoscaling"] = False
    del cluster["autoscalerOptions"]
    for group in cluster["workerGroupSpecs"]:
        group["replicas"] = group["minReplicas"] = group["maxReplicas"]
