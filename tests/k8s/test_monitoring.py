"""Dashboard and alerts ask only for numbers that a run really exports, in a way that suits their kind."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from jobs.kubernetes import MANIFESTS
from jobs.metrics import LABELS, METRICS
from tests.k8s.validation import problems

MONITORING = MANIFESTS / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
MONITOR = yaml.safe_load((MONITORING / "pod-monitor.yaml").read_text())
SCRAPE = yaml.safe_load((MONITORING / "scrape.yaml").read_text())[0]

QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
RULES = [rule["expr"] for group in ALERTS["spec"]["groups"] for rule in group["rules"]]
VARIABLES = [v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
NAME = re.compile(r"\bray_\w+")


def exported():
    """Name at the scrape end -> kind."""
    names = {}
    for metric in METRICS.values():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.exposed + suffix: metric.kind for suffix in suffixes}
    return names


def of_ray():
    """The gauges that Ray exports of each machine, read from its source: importing it would start half a dashboard."""
    import ray

    agent = Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py"
    return {
        f"ray_{name}": "gauge" for name in re.findall(r'^    "(node_\w+)": Gauge\(', agent.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("query", QUERIES + RULES + VARIABLES)
def test_query_asks_for_what_exists_and_suits_its_kind(query):
    kinds = exported() | of_ray()
    names = NAME.findall(query)
    assert names
    for name in names:
        assert name in kinds, f"{name} is exported by nobody"
    for name in names:
        counts = kinds[name] in ("counter", "histogram")
        in_change = re.search(rf"(rate|increase)\({name}(\{{[^}}]*\}})?\[", query) is not None
        # 0 * a counter stands for "a run that is there", whatever its value.
        assert counts == in_change or f"0 * sum by (run) ({name})" in query, f"{name} is a {kinds[name]}"
    assert set(re.findall(r"[{,]\s*(\w+)\s*=~?", query)) <= set(LABELS)
    grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in labels.split(",")}
    assert grouped <= {*LABELS, "le", "instance"}
    assert all(query.count(left) == query.count(right) for left, right in ("()", "[]", "{}"))


def test_every_number_of_a_run_is_shown():
    shown = set(NAME.findall(" ".join(QUERIES)))
    assert [
        name for name, metric in METRICS.items() if not any(each.startswith(metric.exposed) for each in shown)
    ] == []


def test_what_is_asked_for_is_kept_at_the_scrape():
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    kept, plain = endpoint["metricRelabelings"][0]["regex"], SCRAPE["metric_relabel_configs"][0]["regex"]
    assert kept == plain
    assert all(re.fullmatch(kept, name) for name in NAME.findall(" ".join(QUERIES + RULES)))


def test_scraped_pods_are_the_manifests():
    cluster = (MANIFESTS / "base" / "cluster.yaml").read_text()
    assert MONITOR["spec"]["selector"]["matchLabels"].items() <= yaml.safe_load(cluster)["metadata"]["labels"].items()
    assert "{name: metrics, containerPort: 8080}" in cluster
    assert MONITOR["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


@pytest.mark.parametrize("resource", [ALERTS, MONITOR], ids=lambda resource: resource["kind"])
def test_manifest_is_valid(resource):
    assert problems(resource) == []


def test_panels_have_places_of_their_own():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_kustomize_makes_the_dashboard_a_map_for_grafana():
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, whose kustomize is asked, is not on this machine")
    done = subprocess.run([kubectl, "kustomize", MONITORING], capture_output=True, text=True, check=True)
    resources = {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}
    assert resources.keys() == {"ConfigMap", "PodMonitor", "PrometheusRule"}
    assert resources["ConfigMap"]["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(resources["ConfigMap"]["data"]["dashboard.json"]) == DASHBOARD
    assert problems(resources["ConfigMap"]) == []


def test_alerts_ring_when_they_should_and_only_then(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, which plays the stories of alerts.promtool.yaml, is not on this machine")
    (tmp_path / "rules.yaml").write_text(json.dumps(ALERTS["spec"]))
    stories = yaml.safe_load((Path(__file__).parent / "alerts.promtool.yaml").read_text())
    (tmp_path / "stories.yaml").write_text(json.dumps({"rule_files": ["rules.yaml"], **stories}))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "stories.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
