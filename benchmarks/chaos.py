"""Does to a run whatever can happen to one, submits again whenever it ends, and compares with an undisturbed run.

    python benchmarks/chaos.py --faults 50

A cluster of several nodes on this machine; drivers are processes of their own. Prints a table of what was done to the run and of
how its drivers ended, and exits with 1 unless the two runs are equal to the bit, no image is lost or there twice, and verify finds nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

TOP = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, TOP)


KINDS = ("kill_worker", "kill_decode", "kill_driver", "stop_driver", "freeze_driver", "remove_node")
KINDS += ("fail_in_worker", "fail_in_driver", "wake_zombie")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--kind", action="append", choices=KINDS, help="some of the faults, in turn (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rpc-failures", type=int, default=0, metavar="PERCENT", help="of Ray's own calls get lost")
    parser.add_argument("--folder", type=Path, help="keep everything there; a fresh one that is removed by default")
    parser.add_argument("--json", action="store_true", help="one JSON value on stdout")
    asked = parser.parse_args()
    os.environ.update(environment(asked))
    with nullcontext(asked.folder) if asked.folder else tempfile.TemporaryDirectory(prefix="storm-") as folder:
        found = weather(Path(folder), asked)
    from jobs import tables

    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        for name in ("faults", "endings"):
            tables.print_rows([{name: kind, "times": times} for kind, times in found.pop(name).items()])
            print()
        tables.print_fields(found)
    wanted = {"verify": "sound", "equal to the undisturbed run": True, "zombies that won": 0, "failed": 0}
    sys.exit(any(found[name] != value for name, value in wanted.items()) or found["rows"] != 2 * found["images"])


def weather(folder, asked):
    from tests.jobs import tiny  # not before Ray's settings are in the environment
    from tests.jobs.storm import Storm

    done, started = Counter(), time.monotonic()
    with Storm(folder, asked.faults, asked.seed) as storm:
        calm = storm.undisturbed()
        storm.begin()
        for _, fault in zip(range(asked.faults), storm.weather(asked.kind), strict=False):
            done[told := storm.blow(fault)] += 1
            print(f"{time.monotonic() - started:5.0f} s  {done.total():3}  {told}", file=sys.stderr, flush=True)
        storm.finish()
        run = storm.run
        progress, rows = run.progress(), run.summary().select(["image", "method"]).to_pylist()
        return {
            "faults": dict(done.most_common()),
            "endings": dict(Counter(map(ending, storm.endings)).most_common()),
            "submits": storm.submits - 1,
            "seconds": round(time.monotonic() - started),
            "images": progress.images,
            "done": progress.done,
            "failed": progress.failed,
            "rows": len({tuple(row.values()) for row in rows}) if len(rows) == 2 * progress.images else len(rows),
            "zombies that won": len(storm.zombies_that_won),
            "verify": "sound" if run.verify().is_sound else "damaged",
            "equal to the undisturbed run": tiny.contents(run) == tiny.contents(calm),
        }


def ending(told):
    """Without what differs each time."""
    return {"0": "finished", "-9": "killed"}.get(told, told.partition("/")[0])


def environment(asked):
    """For this process, the nodes and the drivers; Ray reads it when it is imported."""
    variables = {"PYTHONPATH": TOP, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 48}
    if asked.rpc_failures:  # Ray's own testing: requests lost, answers lost, connections cut while a call is under way
        kinds = ("req_failure_prob", "resp_failure_prob", "in_flight_failure_prob")
        chances = {"num_failures": -1, **dict.fromkeys(kinds, asked.rpc_failures)}
        variables["RAY_testing_rpc_failure"] = json.dumps({"*": chances})
    return variables


if __name__ == "__main__":
    main()
