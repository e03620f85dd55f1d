"""Replay of CartPole steps: purerl beside flashbax 0.1.3 and rejax 0.1.3 (which has no prioritised one).

Microseconds per call, inside one compiled loop, of adding 1 step, of adding 64, of sampling 128 (a prioritised replay
then also sets their priorities), and of adding 1 and sampling 128 as training does; for one agent and for 32 side by
side. Each library runs in a fresh process, all in turn within a round; what counts are ratios within one round, because
machines drift.

Usage: python -m benchmarks.replay [--rounds 3]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from pathlib import Path

from benchmarks import peers, worker
from purerl.cpu import choose_thread_pool, usable_cores

HERE = Path(__file__).parent
# Multiples of 64. A million steps of 32 members are 1.3 GB where observations are stored twice.
CAPACITIES = [10_048, 100_032, 1_000_000]
MEMBERS = [1, 32]
LIBRARIES = {"uniform": ["purerl", "flashbax", "rejax"], "prioritized": ["purerl", "flashbax"]}
CALLS = ["add_one", "add_several", "sample", "add_one_and_sample"]


def measure(python: Path, library: str, kind: str, capacity: int, members: int) -> dict:
    flags = ["--capacity", str(capacity), "--members", str(members), *(["--prioritized"] * (kind == "prioritized"))]
    return worker.run(python, f"{library}_replay.py", *flags)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each job (default 3); medians are reported")
    args = parser.parse_args()
    choose_thread_pool()  # for all: the workers inherit it
    pythons = {"purerl": Path(sys.executable), **{name: peers.peer_python(name) for name in ("rejax", "flashbax")}}
    rows = []
    print(f"{'kind':12s} {'members':>7s} {'capacity':>9s} {'library':9s}" + "".join(f"{call:>20s}" for call in CALLS))
    for kind, libraries in LIBRARIES.items():
        for members in MEMBERS:
            rounds = [
                {
                    capacity: {
                        library: measure(pythons[library], library, kind, capacity, members) for library in libraries
                    }
                    for capacity in CAPACITIES
                }
                for _ in range(args.rounds)
            ]
            for capacity in CAPACITIES:
                row = {"kind": kind, "members": members, "capacity": capacity}
                for library in libraries:
                    # Times over purerl's, and over those of the same library at the smallest capacity.
                    against = {
                        call: statistics.median(
                            done[capacity][library][call] / done[capacity]["purerl"][call] for done in rounds
                        )
                        for call in CALLS
                    }
                    growth = {
                        call: statistics.median(
                            done[capacity][library][call] / done[CAPACITIES[0]][library][call] for done in rounds
                        )
                        for call in CALLS
                    }
                    taken = worker.medians([done[capacity][library] for done in rounds])
                    row[library] = {"microseconds": taken, "over_purerl": against, "over_smallest": growth}
                    cells = "".join(f"{taken[call]:10,.2f} ({against[call]:6.1f}x)" for call in CALLS)
                    print(f"{kind:12s} {members:7d} {capacity:9,d} {library:9s}{cells}", flush=True)
                rows.append(row)
    report = {
        "machine": {"processor": platform.machine(), "cores": usable_cores(), "NPROC": os.environ.get("NPROC")},
        "versions": {
            "python": platform.python_version(),
            "jax": importlib.metadata.version("jax"),
            **peers.versions(),
        },
        "rows": rows,
    }
    out = HERE / "results" / "replay.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
