"""Kills workers and drivers at random, submits again whenever the run ends, and compares with an undisturbed run.

    python benchmarks/chaos.py --faults 20 --images 60

Prints a table of what was done to the run, and ends with 1 unless the two runs are equal to the bit.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("PYTHONPATH", sys.path[0])  # for the workers

from jobs import tables
from jobs.driver import Driver
from jobs.submit import local_ray
from storage.run import Run
from tests.jobs import tiny


class Watched(Driver):
    """Knows the process ids of its workers, and of what is under way."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pids = []

    def _hear_ready(self, about, answer):
        super()._hear_ready(about, answer)
        if isinstance(answer, dict):
            self.pids.append(answer["pid"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder, local_ray(dashboard=False):
        photographs = tiny.photographs(Path(folder, "photographs"), asked.images)
        form = {"methods": ("ig(n_steps=50)", "saliency"), "workers": 2, "max_failures": 0}
        calm, spec = tiny.new_run(photographs, Path(folder, "calm"), **form)
        Driver(calm, spec).drive()
        run, spec = tiny.new_run(photographs, Path(folder, "stormy"), **form)
        done, submits, started = Counter(), 0, time.monotonic()
        while run.pending():
            submits += 1
            stop = threading.Event()
            driver = Watched(Run.open(run.uri), spec, stop=stop)
            storm = threading.Thread(target=disturb, args=(driver, stop, rng, done, asked.faults), daemon=True)
            storm.start()
            ending = driver.drive()
            stop.set()
            storm.join()
            if ending.how == "aborted":
                done[f"aborted: {ending.reason}"] += 1
        sound, equal = run.verify().is_sound, tiny.contents(run) == tiny.contents(calm)
        tables.print_rows([{"fault": kind, "times": count} for kind, count in done.items()])
        progress = run.progress()
        tables.print_fields(
            {
                "submits": submits,
                "seconds": round(time.monotonic() - started, 1),
                "images": progress.images,
                "done": progress.done,
                "failed": progress.failed,
                "verify": "sound" if sound else "damaged",
                "equal to the undisturbed run": equal,
            }
        )
    sys.exit(0 if sound and equal and progress.done == asked.images else 1)


def disturb(driver, stop, rng, done, most):
    """One fault every second or so, until there were enough."""
    while not stop.wait(rng.uniform(0.5, 2.0)) and done.total() < most:
        kind = rng.choice(["worker killed", "worker killed", "driver stopped"])
        if kind == "driver stopped":
            stop.set()
        elif driver.pids:
            try:
                os.kill(driver.pids.pop(), signal.SIGKILL)
            except ProcessLookupError:
                continue
        else:
            continue
        done[kind] += 1


if __name__ == "__main__":
    main()
