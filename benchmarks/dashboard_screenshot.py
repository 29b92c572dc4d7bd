"""Take README's pictures of Ray's dashboard during a run: a cluster of two nodes, a run submitted to it, headless Chromium.

    python -m benchmarks.dashboard_screenshot docs/pictures

writes dashboard.png, the job's page with its metadata and its log, and dashboard-actors.png, the run's workers by name.
Needs Chromium, chromedriver and the sample and test extras. The dashboard asks for the cluster's token, which it keeps in a cookie.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.browser import chromium, resize
from tests.jobs.two_nodes import TOKEN, Cluster, two_nodes

COOKIE = "ray-authentication-token"  # Ray's own name for it
JOB_WORDS = ("RUNNING", "shard committed")  # of a page that has loaded, with the job's log
ACTOR_WORDS = ("ascribe-", "ALIVE")


def submit(cluster: Cluster, output: Path) -> str:
    asked = [
        "--dataset",
        "sample",
        "--method",
        "ig(n_steps=200)",
        "--model",
        "efficientnet_lite0",
        "--output",
        str(output),
    ]
    sent = cluster.command(
        "submit", *asked, "--set", "shard_length=1", "--address", cluster.address, "--no-wait", "--json"
    )
    if sent.returncode:
        sys.exit(sent.stderr)
    return str(json.loads(sent.stdout)["id"])


def wait_for_commits(output: Path, count: int) -> None:
    while len(list((output / "commits").glob("[0-9]*.json"))) < count:
        time.sleep(0.5)


def open_page(page: Any, address: str, words: tuple[str, ...]) -> None:
    """Once its text holds the words: the dashboard loads piece by piece."""
    page.get(address)
    page.refresh()
    text = ""
    for _ in range(120):
        text = page.execute_script("return document.body.innerText")
        if all(word in text for word in words):
            time.sleep(3)  # its charts are drawn after the text
            return
        time.sleep(1)
    sys.exit(f"{address} never showed {words}; it says:\n{text}")


def pictures(cluster: Cluster, job: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as page:
        resize(page, 1400, 1200)
        page.get(cluster.address)
        page.add_cookie({"name": COOKIE, "value": TOKEN})
        open_page(page, f"{cluster.address}/#/jobs/{job}", JOB_WORDS)
        page.find_element("css selector", "input.MuiSwitch-input").click()  # the newest lines first
        time.sleep(3)
        page.save_screenshot(str(folder / "dashboard.png"))
        resize(page, 1400, 620)
        open_page(page, f"{cluster.address}/#/actors", ACTOR_WORDS)
        page.save_screenshot(str(folder / "dashboard-actors.png"))


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place, two_nodes() as cluster:
        output = Path(place, "run")
        job = submit(cluster, output)
        wait_for_commits(output, 3)
        pictures(cluster, job, folder)
    for name in ("dashboard.png", "dashboard-actors.png"):
        print(f"{folder / name}: {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures"))
