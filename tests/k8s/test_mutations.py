"""A manifest with one mistake is refused, and the answer names the mistake: what the checks are worth."""

import copy
import functools

import pytest

from jobs.kubernetes import Deployment, render
from jobs.spec import RunSpec
from tests.k8s.validation import problems


@functools.cache
def good():
    return render(RunSpec(dataset="sample", methods=("gradient_shap",), model="resnet50"), Deployment())


def at(resource, path):
    """The parent of a dotted path, and its last step."""
    *way, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    for step in way:
        resource = resource[step]
    return resource, last


CLUSTER = "spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec/template/spec"
GPU = f"{CLUSTER}/workerGroupSpecs/1/template/spec"
GONE = object()
# What was done to a good manifest, where, with what, and a word of the answer.
MUTATIONS = [
    ("a misspelt field", "RayJob", "spec/shutdownAfterJobFinish", True, "unexpected"),
    ("a field of a later level", "RayJob", "spec/rayVersion", "2.60.0", "unexpected"),
    ("a number as text", "RayJob", "spec/ttlSecondsAfterFinished", "300", "not of type"),
    ("a version as number", "RayJob", f"{CLUSTER}/rayVersion", 2.6, "not of type"),
    ("an unknown submission mode", "RayJob", "spec/submissionMode", "JobMode", "none of"),
    ("an old API version", "RayJob", "apiVersion", "ray.io/v1alpha1", "not one of"),
    ("a misspelt pod field", "RayJob", f"{GPU}/toleration", [], "unexpected"),
    (
        "a quantity that is none",
        "RayJob",
        f"{GPU}/containers/0/resources/limits/memory",
        "24 gigabytes",
        "does not match",
    ),
    ("no group name", "RayJob", f"{CLUSTER}/workerGroupSpecs/1/groupName", GONE, "required"),
    ("a start parameter as number", "RayJob", f"{CLUSTER}/headGroupSpec/rayStartParams/num-cpus", 0, "not of type"),
    ("a ttl without shutdown", "RayJob", "spec/shutdownAfterJobFinishes", False, "needs shutdownAfterJobFinishes"),
    (
        "deletion rules beside shutdown",
        "RayJob",
        "spec/deletionStrategy",
        {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 1}}]},
        "exclude",
    ),
    ("retries on a chosen cluster", "RayJob", "spec/clusterSelector", {"ray.io/cluster": "mine"}, "clusterSelector"),
    ("a submitter in a sidecar", "RayJob", "spec/submissionMode", "SidecarMode", "SidecarMode"),
    ("restarts under autoscaler v2", "RayJob", f"{GPU}/restartPolicy", "Always", "restartPolicy"),
    ("a Ray without tokens", "RayJob", f"{CLUSTER}/rayVersion", "2.51.1", "2.52.0"),
    (
        "tokens of Kubernetes in a job",
        "RayJob",
        f"{CLUSTER}/authOptions",
        {"mode": "token", "enableK8sTokenAuth": True},
        "enableK8sTokenAuth",
    ),
    ("more at least than at most", "RayJob", f"{CLUSTER}/workerGroupSpecs/1/minReplicas", 99, "not in order"),
    ("resources said twice", "RayJob", f"{CLUSTER}/headGroupSpec/resources", {"CPU": "0"}, "both"),
    ("a name too long for services", "RayJob", "metadata/name", "a" * 48, "47"),
    ("a name that begins with a digit", "RayJob", "metadata/name", "3d-run", "DNS 1035"),
    ("a gated feature", "RayJob", f"{CLUSTER}/tlsOptions", {"enabled": True}, "feature gate"),
    ("a queue with autoscaling", "RayJob", "metadata/labels/kueue.x-k8s.io~queue-name", "research", "no autoscaling"),
    ("a mount without its volume", "RayJob", f"{HEAD}/volumes", [], "not there"),
    ("authentication off", "RayJob", f"{CLUSTER}/authOptions/mode", "disabled", "token authentication is off"),
    ("a load balancer before the head", "RayJob", f"{CLUSTER}/headGroupSpec/serviceType", "LoadBalancer", "reachable"),
    ("root", "RayJob", f"{GPU}/securityContext/runAsNonRoot", False, "root"),
    ("privileges", "RayJob", f"{HEAD}/containers/0/securityContext/allowPrivilegeEscalation", True, "privileges"),
    (
        "a writable image",
        "RayJob",
        f"{GPU}/containers/0/securityContext/readOnlyRootFilesystem",
        False,
        "write its image",
    ),
    ("the host's network", "RayJob", f"{HEAD}/hostNetwork", True, "host"),
    ("the latest image", "RayJob", f"{GPU}/containers/0/image", "ascribe:latest", "not one image"),
    ("no limits", "RayJob", f"{GPU}/containers/0/resources/limits", {"nvidia.com/gpu": "1"}, "no limits"),
    ("a small /dev/shm", "RayJob", f"{GPU}/volumes/1/emptyDir/sizeLimit", "1Gi", "/dev/shm"),
    (
        "a secret in the manifest",
        "RayJob",
        f"{HEAD}/containers/0/env/0",
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "hush"},
        "written into",
    ),
    ("a secret in the runtime environment", "RayJob", "spec/runtimeEnvYAML", "env_vars: {A: b}", "runtimeEnvYAML"),
    ("a shell's word in the entrypoint", "RayJob", "spec/entrypoint", "ascribe submit --method 'ig()'", "shell"),
    ("a shell's word in the metadata", "RayJob", "spec/metadata/dataset", "$(reboot)", "shell"),
    ("no deadline", "RayJob", "spec/activeDeadlineSeconds", GONE, "activeDeadlineSeconds"),
    ("a head that computes", "RayJob", f"{CLUSTER}/headGroupSpec/rayStartParams/num-cpus", "4", "takes work"),
    (
        "a worker outside the policy",
        "RayJob",
        f"{CLUSTER}/workerGroupSpecs/0/template/metadata/labels",
        {},
        "does not select",
    ),
    ("everyone let in", "NetworkPolicy", "spec/ingress/0", {}, "anyone"),
    ("the world let in", "NetworkPolicy", "spec/ingress/0/from", [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "addresses"),
    ("a misspelt core field", "NetworkPolicy", "spec/podselector", {}, "podselector"),
    ("a misspelt access mode's field", "PersistentVolumeClaim", "spec/accessMode", ["ReadWriteMany"], "accessMode"),
    ("a key beside a ConfigMap's data", "ConfigMap", "run.yaml", "x", "run.yaml"),
]


@pytest.mark.parametrize(
    ("kind", "path", "value", "answer"), [case[1:] for case in MUTATIONS], ids=[case[0] for case in MUTATIONS]
)
def test_mutated_manifest_is_refused(kind, path, value, answer):
    (resource,) = (copy.deepcopy(each) for each in good() if each["kind"] == kind)
    parent, last = at(resource, path)
    last = last.replace("~", "/") if isinstance(last, str) else last
    if value is GONE:
        del parent[last]
    else:
        parent[last] = value
    found = problems(resource)
    assert any(answer in problem for problem in found), found
