"""`k8s render` prints a manifest that a cluster takes, and what it embeds is what `submit` does elsewhere."""

import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import cli
from commands import frame
from commands.options import build_spec
from jobs import remote
from jobs.spec import RunSpec
from tests.k8s.validation import problems

METHOD = "integrated_gradients(n_steps=20, at='layer4')"
ASKED = ["--dataset", "imagenet-val", "--method", METHOD, "--method", "saliency", "--output", "s3://bucket/run"]


def rendered(*arguments):
    result = CliRunner().invoke(cli.main, ["k8s", "render", *ASKED, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {resource["kind"]: resource for resource in yaml.safe_load_all(result.stdout)}


@pytest.mark.parametrize("overlay", ["cpu-local", "gpu", "gpu-spot"])
def test_what_is_printed_is_valid(overlay):
    resources = rendered("--overlay", overlay, "--workers", "3", "--queue", "research", "--namespace", "explain")
    assert [problem for resource in resources.values() for problem in problems(resource)] == []


def test_manifest_does_what_submit_does(tmp_path):
    """The entrypoint is a command of the image's program; its spec is the one that a job over HTTP gets."""
    resources = rendered("--image", "registry.example/ascribe:1.2.3")
    job, head = resources["RayJob"]["spec"], resources["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]
    program, *words, path = shlex.split(job["entrypoint"])
    scripts = tomllib.loads((Path(cli.__file__).parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[program] == "cli:main"
    assert cli.main.commands["k8s"].commands[words[1]].params[0].name == "spec_file"
    mounts = {mount["mountPath"]: mount["name"] for mount in head["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounts[str(Path(path).parent)] == "run"
    (tmp_path / "run.yaml").write_text(resources["ConfigMap"]["data"][Path(path).name])

    in_cluster = RunSpec.from_file(tmp_path / "run.yaml")
    over_http = build_spec(
        None, (), {"dataset": "imagenet-val", "methods": (METHOD, "saliency"), "output": "s3://bucket/run"}
    )
    assert in_cluster == over_http.assigned({"workers": 8, "gpus_per_worker": 1.0, "stall_timeout_s": 3600.0})
    assert job["metadata"].keys() == remote.metadata(over_http).keys()
    images = {container["image"] for container in head["template"]["spec"]["containers"]}
    assert images == {"registry.example/ascribe:1.2.3"}
    worker = job["rayClusterSpec"]["workerGroupSpecs"][1]
    assert worker["maxReplicas"] == in_cluster.workers
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(("ended", "code"), [(frame.DONE, 0), (frame.WITH_FAILURES, 0), (frame.FAILED, 1)])
def test_only_a_failed_run_is_tried_again(ended, code, tmp_path, monkeypatch):
    """KubeRay answers an error with a new cluster; images that can't be read stay unreadable on it."""
    spec = RunSpec(dataset="sample", methods=("saliency",), model="resnet18:random", output=str(tmp_path / "run"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(spec.to_json()))
    seen = []
    monkeypatch.setattr(
        "jobs.submit.submit_here", lambda given, *_: seen.append(given) or type("", (), {"run": 0, "ending": 0})
    )
    monkeypatch.setattr("commands.submitting._conclude", lambda *_, **__: ended)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert CliRunner().invoke(cli.main, ["k8s", "run", str(tmp_path / "run.yaml")]).exit_code == code
    assert seen == [spec]


def test_submit_applies_through_kubectl(tmp_path, monkeypatch):
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/manifest\necho rayjob created\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ASCRIBE_IMAGE", "registry.example/ascribe:1.2.3")
    result = CliRunner().invoke(cli.main, ["submit", *ASKED, "--kubernetes", "gpu-spot"], catch_exceptions=False)
    assert result.stdout == "rayjob created\n"
    applied = {resource["kind"]: resource for resource in yaml.safe_load_all((tmp_path / "manifest").read_text())}
    assert applied == rendered("--overlay", "gpu-spot", "--image", "registry.example/ascribe:1.2.3")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["k8s", "render", *ASKED, "--overlay", "tpu"], "overlay 'tpu' not found; there are: cpu-local, gpu, gpu-spot"),
        (["k8s", "render", *ASKED, "--output", "runs/x"], "output 'runs/x' is no place in a cluster"),
        (["k8s", "render", "--method", "ig"], "--dataset is missing"),
        (["submit", *ASKED, "--kubernetes"], "kubectl not found; write the manifest with `k8s render`"),
    ],
)
def test_mistakes_end_as_one_line(arguments, answer, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == frame.USAGE
    assert answer in result.stderr
    assert "Traceback" not in result.stderr
