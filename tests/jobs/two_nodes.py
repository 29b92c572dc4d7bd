"""A Ray cluster of two nodes on this machine, with dashboard, metrics port and token, as `ray start` makes it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-tests-of-32-characters"
RAY = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"


@dataclass(frozen=True)
class Cluster:
    address: str  # of the Jobs API
    metrics: tuple[str, str]  # head, worker node
    environment: dict[str, str]
    nodes: list[subprocess.Popen]

    def get(self, path: str, token: str | None = TOKEN) -> tuple[int, object]:
        request = urllib.request.Request(f"{self.address}{path}")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                body = answer.read().decode()
                return answer.status, json.loads(body) if body.startswith(("{", "[")) else body
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def command(self, *arguments: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """`python cli.py ...` as a user of this cluster."""
        return subprocess.run(
            [sys.executable, TOP / "cli.py", *arguments],
            cwd=TOP,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def two_nodes(python: str | Path = sys.executable, **variables: str) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray puts sockets below it, whose paths end at 107 characters
    install(Path(folder, "bin"))
    gcs, client, dashboard, agent_0, agent_1, metrics_0, metrics_1 = free_ports(7)
    address = f"http://127.0.0.1:{dashboard}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TOP),
        **variables,
    }
    common = [
        "--block",
        "--num-cpus=1",
        "--num-gpus=0",
        "--node-ip-address=127.0.0.1",
        "--object-store-memory=200000000",
    ]
    common += ["--min-worker-port=0", "--max-worker-port=0"]
    head = ["--head", f"--port={gcs}", f"--ray-client-server-port={client}", f"--temp-dir={folder}/ray"]
    head += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    nodes: list[subprocess.Popen] = []
    try:
        for extra, agent, metrics in (
            (head, agent_0, metrics_0),
            ([f"--address=127.0.0.1:{gcs}"], agent_1, metrics_1),
        ):
            ports = [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
            with Path(folder, f"node-{len(nodes)}.log").open("w") as log:
                nodes.append(
                    subprocess.Popen(
                        [python, "-c", RAY, "start", *common, *ports, *extra],
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            scrape = tuple(f"http://127.0.0.1:{port}/metrics" for port in (metrics_0, metrics_1))
            cluster = Cluster(address, scrape, environment, nodes)
            wait_for_nodes(cluster, len(nodes), folder)
        yield cluster
    finally:
        for node in reversed(nodes):
            kill_session(node.pid)
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def install(folder: Path) -> None:
    """What the image has on its path, whether or not this environment was installed."""
    folder.mkdir()
    program = folder / "ascribe"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {TOP}/cli.py "$@"\n')
    program.chmod(0o755)


def kill_session(leader: int) -> None:
    """A node and all that it started, by id; asked politely, Ray takes 40 seconds."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ProcessLookupError):
            session = int(path.read_text().rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(int(path.parent.name), signal.SIGKILL)


def wait_for_nodes(cluster: Cluster, count: int, folder: str) -> None:
    for _ in range(240):
        with contextlib.suppress(OSError):
            status, body = cluster.get("/api/v0/nodes")
            if status == 200 and body["data"]["result"]["num_filtered"] >= count:
                return
        if any(node.poll() is not None for node in cluster.nodes):
            break
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(Path(folder).glob("node-*.log")))
    raise RuntimeError(f"the cluster of {count} nodes did not come up:\n{logs}")
