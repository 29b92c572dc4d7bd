"""What this project promises of every pod and service it asks a cluster for (docs/security.md, docs/kubernetes.md)."""

import re
from collections.abc import Iterator

UNITS = {"Mi": 2**20, "Gi": 2**30}
OBJECT_STORE = 0.3  # of the memory, Ray's default


def problems(resource: dict) -> Iterator[str]:
    kind, spec = resource["kind"], resource.get("spec", {})
    if kind in ("Service", "Ingress", "Route"):
        yield f"{kind}: nothing of Ray's is exposed"
    if kind == "RayCluster":
        yield from cluster_problems(spec)
    if kind == "RayJob":
        yield from job_problems(spec)
        yield from cluster_problems(spec["rayClusterSpec"])
    if kind == "NetworkPolicy":
        yield from policy_problems(spec)


def cluster_problems(spec: dict) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "token authentication is off"
    head = spec["headGroupSpec"]
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield "the head's service is reachable from outside the cluster"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield "the head takes work: num-cpus must be 0"
    yield from pod_problems("head", head["template"])
    for group in spec["workerGroupSpecs"]:
        yield from pod_problems(group["groupName"], group["template"])
        if spec.get("enableInTreeAutoscaling") and group.get("minReplicas", 0) != 0:
            yield f"{group['groupName']}: an idle cluster keeps machines"


def job_problems(spec: dict) -> Iterator[str]:
    for name in ("shutdownAfterJobFinishes", "activeDeadlineSeconds", "backoffLimit", "submitterPodTemplate"):
        if not spec.get(name):
            yield f"{name} is missing"
    if spec.get("submitterPodTemplate"):
        yield from container_problems("submitter", spec["submitterPodTemplate"]["spec"])
    if "runtimeEnvYAML" in spec:
        yield "runtimeEnvYAML is readable in the dashboard; variables come from a Secret, code from the image"
    for text in (spec.get("entrypoint", ""), *spec.get("metadata", {}).values()):
        if re.search(r"[$`\\\"'|&;<>!*?#~{}\[\]\n]", text.replace("; ", ", ")):
            yield f"a shell would act on {text!r}"


def pod_problems(name: str, template: dict) -> Iterator[str]:
    pod = template["spec"]
    if template.get("metadata", {}).get("labels", {}).get("app.kubernetes.io/name") != "ascribe":
        yield f"{name}: the NetworkPolicy does not select it"
    if name != "head" and pod.get("automountServiceAccountToken"):
        yield f"{name}: mounts a token for the Kubernetes API"
    yield from container_problems(name, pod)
    container = pod["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"{name}: no {probe}"
    shared = {volume["name"]: volume.get("emptyDir", {}) for volume in pod.get("volumes", [])}
    mounted = {mount["mountPath"]: shared.get(mount["name"], {}) for mount in container.get("volumeMounts", [])}
    size = mounted.get("/dev/shm", {}).get("sizeLimit")
    if mounted.get("/dev/shm", {}).get("medium") != "Memory" or size is None:
        yield f"{name}: /dev/shm is no memory volume with a size"
    elif OBJECT_STORE * amount(container.get("resources", {}).get("limits", {}).get("memory", "0Gi")) > amount(size):
        yield f"{name}: /dev/shm is smaller than Ray's object store"


def container_problems(name: str, pod: dict) -> Iterator[str]:
    """The `restricted` level of the pod security standards, a read-only root, and stated resources."""
    whole = pod.get("securityContext", {})
    if not whole.get("runAsNonRoot") or not whole.get("runAsUser"):
        yield f"{name}: may run as root"
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name}: no seccomp profile"
    if pod.get("hostNetwork") or pod.get("hostPID") or any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield f"{name}: reaches into its host"
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged") or own.get("runAsUser") == 0:
            yield f"{name}: may gain privileges"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            yield f"{name}: keeps capabilities"
        if not own.get("readOnlyRootFilesystem"):
            yield f"{name}: can write its image"
        limits = container.get("resources", {}).get("limits", {})
        if not {"cpu", "memory"} <= limits.keys():
            yield f"{name}: no limits; Ray takes its machine's size from them"
        if re.search(r"(:latest|/[^:]*|^[^:]*)$", container["image"]) and "@sha256:" not in container["image"]:
            yield f"{name}: image {container['image']} is not one image"
        for variable in container.get("env", []):
            if re.search(r"(?i)secret|token|password|_key", variable["name"]) and "value" in variable:
                yield f"{name}: {variable['name']} is written into the manifest"


def policy_problems(spec: dict) -> Iterator[str]:
    if set(spec.get("policyTypes", [])) != {"Ingress", "Egress"}:
        yield "the policy leaves a direction open"
    for rule in spec.get("ingress", []):
        if not rule.get("from"):
            yield "anyone may connect"
        for peer in rule.get("from", []):
            if peer == {"namespaceSelector": {}} or "ipBlock" in peer:
                yield "other namespaces or addresses may connect"


def amount(text: str) -> float:
    return float(text[:-2]) * UNITS[text[-2:]]
