"""KubeRay v1.7.0's own checks that no schema states (ray-operator/controllers/ray/utils/validation.go), and what Kueue adds.

The operator refuses such a resource only after the API server took it: the user sees an applied manifest and nothing happening.
"""

import re
from collections import Counter
from collections.abc import Iterator

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS 1035
LONGEST = {"RayCluster": 53, "RayJob": 47}
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
LABEL = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


def problems(resource: dict) -> Iterator[str]:
    kind, spec = resource["kind"], resource.get("spec", {})
    if kind not in LONGEST:
        return
    name = resource["metadata"]["name"]
    if len(name) > LONGEST[kind] or not NAME.fullmatch(name):
        yield f"name {name!r} is no DNS 1035 label of at most {LONGEST[kind]} characters"
    if kind == "RayCluster":
        yield from cluster_problems(spec)
        return
    yield from job_problems(spec)
    if "rayClusterSpec" in spec:
        yield from cluster_problems(spec["rayClusterSpec"])
        if spec["rayClusterSpec"].get("authOptions", {}).get("enableK8sTokenAuth"):
            yield "enableK8sTokenAuth does not work in a RayJob"
    if "kueue.x-k8s.io/queue-name" in resource["metadata"].get("labels", {}):
        yield from kueue_problems(spec)


def job_problems(spec: dict) -> Iterator[str]:
    stays = not spec.get("shutdownAfterJobFinishes")
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in MODES:
        yield f"submissionMode {mode!r} is none of {', '.join(MODES)}"
    if stays and spec.get("ttlSecondsAfterFinished"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if stays and spec.get("suspend"):
        yield "suspend needs shutdownAfterJobFinishes"
    if not stays and spec.get("deletionStrategy", {}).get("deletionRules"):
        yield "shutdownAfterJobFinishes and deletionRules exclude each other"
    if ("rayClusterSpec" in spec) == bool(spec.get("clusterSelector")):
        yield "one of rayClusterSpec and clusterSelector must be set"
    if spec.get("backoffLimit", 0) > 0 and (spec.get("clusterSelector") or mode == "InteractiveMode"):
        yield "backoffLimit works with neither clusterSelector nor InteractiveMode"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode takes no submitterPodTemplate and no submitterConfig"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(name, 1) <= 0:
            yield f"{name} must be positive"
    for name in ("backoffLimit", "ttlSecondsAfterFinished"):
        if spec.get(name, 0) < 0:
            yield f"{name} must not be negative"


def cluster_problems(spec: dict) -> Iterator[str]:
    scales = bool(spec.get("enableInTreeAutoscaling"))
    is_v2 = scales and spec.get("autoscalerOptions", {}).get("version") == "v2"
    groups = [("head", spec["headGroupSpec"])] + [(g["groupName"], g) for g in spec.get("workerGroupSpecs", [])]
    if doubled := [name for name, count in Counter(name for name, _ in groups).items() if count > 1]:
        yield f"two groups are called {doubled[0]}"
    for name, group in groups:
        pod, start = group["template"]["spec"], group.get("rayStartParams", {})
        if not pod.get("containers"):
            yield f"group {name} has no container"
            continue
        yield from pod_problems(name, pod)
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & start.keys():
            yield f"group {name} states resources both in rayStartParams and in resources"
        if "labels" in start or not all(LABEL.fullmatch(value) for value in group.get("labels", {}).values()):
            yield f"group {name} has labels that Ray does not take"
        if is_v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"group {name}: restartPolicy must be Never with autoscaler v2"
        if "idleTimeoutSeconds" in group and not is_v2:
            yield f"group {name}: idleTimeoutSeconds needs autoscaler v2"
        if name != "head":
            yield from replica_problems(name, group, scales)
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable.get("value") for variable in head.get("env", [])}
    if "RAY_enable_autoscaler_v2" in variables and (is_v2 or not scales):
        yield "RAY_enable_autoscaler_v2 and autoscalerOptions.version exclude each other"
    if "RAY_REDIS_ADDRESS" in variables and "gcsFaultToleranceOptions" not in spec:
        yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    if spec.get("authOptions", {}).get("mode") == "token":
        version = re.fullmatch(r"(\d+)\.(\d+)\.\d+", spec.get("rayVersion", ""))
        if not version or (int(version[1]), int(version[2])) < (2, 52):
            yield f"token authentication needs rayVersion 2.52.0 at least, not {spec.get('rayVersion')!r}"
    for gated in ("networkPolicy", "tlsOptions", "historyServerOptions"):
        if gated in spec:
            yield f"{gated} needs a feature gate that is off by default"


def pod_problems(name: str, pod: dict) -> Iterator[str]:
    """What the API server checks of a pod beyond its schema."""
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    if len(set(volumes)) < len(volumes):
        yield f"group {name}: two volumes share a name"
    for container in pod["containers"]:
        mounts = container.get("volumeMounts", [])
        for mount in mounts:
            if mount["name"] not in volumes:
                yield f"group {name}: volume {mount['name']} is mounted but not there"
        for what, listed in (
            ("mount paths", [mount["mountPath"] for mount in mounts]),
            ("ports", [port["name"] for port in container.get("ports", [])]),
            ("variables", [variable["name"] for variable in container.get("env", [])]),
        ):
            if len(set(listed)) < len(listed):
                yield f"group {name}: two {what} of {container['name']} are equal"


def replica_problems(name: str, group: dict, scales: bool) -> Iterator[str]:
    low, high = group.get("minReplicas"), group.get("maxReplicas")
    if not scales and (low is None or high is None):
        yield f"group {name} needs minReplicas and maxReplicas without autoscaling"
    if low is not None and low < 0:
        yield f"group {name} has a negative minReplicas"
    if low is not None and high is not None and not low <= group.get("replicas", low) <= high:
        yield f"group {name}: minReplicas, replicas, maxReplicas are not in order"


def kueue_problems(spec: dict) -> Iterator[str]:
    cluster = spec.get("rayClusterSpec", {})
    if not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue needs shutdownAfterJobFinishes"
    if cluster.get("enableInTreeAutoscaling"):
        yield "Kueue admits a job whole: no autoscaling"
    if len(cluster.get("workerGroupSpecs", [])) > 7:
        yield "Kueue takes at most 7 worker groups"
