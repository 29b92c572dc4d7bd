"""Take README's picture of Ray's dashboard during a run: a cluster of two nodes, a run submitted to it, headless Chromium.

    python -m benchmarks.dashboard_screenshot docs/pictures/dashboard.png

Needs Chromium, chromedriver and the sample and test extras. The dashboard asks for the cluster's token, which it keeps in a cookie.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.browser import chromium, resize
from tests.jobs.two_nodes import TOKEN, Cluster, two_nodes

COOKIE = "ray-authentication-token"  # Ray's own name for it
WORDS = ("RUNNING", "ASCRIBE_PROGRESS", "Node count")  # of a page that has loaded, with the job's log


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


def picture(cluster: Cluster, job: str, target: Path) -> None:
    with chromium() as page:
        resize(page, 1400, 1000)
        page.get(cluster.address)
        page.add_cookie({"name": COOKIE, "value": TOKEN})
        page.get(f"{cluster.address}/#/jobs/{job}")
        page.refresh()
        for _ in range(120):
            text = page.execute_script("return document.body.innerText")
            if all(word in text for word in WORDS):
                break
            time.sleep(1)
        else:
            sys.exit(f"the page never showed {WORDS}; it says:\n{text}")
        time.sleep(3)  # its charts are drawn after the text
        target.parent.mkdir(parents=True, exist_ok=True)
        page.save_screenshot(str(target))


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, two_nodes() as cluster:
        output = Path(folder, "run")
        job = submit(cluster, output)
        wait_for_commits(output, 2)
        picture(cluster, job, target)
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures/dashboard.png"))
