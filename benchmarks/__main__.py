"""Speed of purerl beside every peer and beside what nobody can do without, in one run.

Each contestant of each job trains in a fresh process, all in turn within a round, and whole trainings are timed after
compiling. Medians are reported; what counts are ratios within one round, because machines drift. The results so far are
written after every job. Peers are installed on first use, each into an environment of its own in .cache/peers.

Usage: python -m benchmarks [--jobs NAME ...] [--rounds 3] [--quick]
"""

import argparse
import time
from pathlib import Path

from benchmarks import measure, report
from benchmarks.jobs import JOBS
from purerl.cpu import choose_thread_pool

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [job.name for job in JOBS]
    parser.add_argument("--jobs", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant (default 3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run? The speeds say nothing")
    args = parser.parse_args()
    choose_thread_pool()  # for all: the workers inherit it
    jobs = [job for job in JOBS if job.name in args.jobs]
    # Never in the place of real results.
    out = HERE.parent / ".cache" / "benchmarks" / "quick.json" if args.quick else HERE / "results" / "speed.json"
    results = report.load(out)
    pythons = measure.prepare(jobs)
    seconds = {job.name: args.rounds * len(job.iterations) * job.worker_seconds for job in jobs}
    total, done, begun = sum(seconds.values()), 0.0, time.perf_counter()
    print(f"{len(jobs)} jobs, about {total / 60:.0f} minutes on a quiet machine", flush=True)
    for job in jobs:
        print(job.name, flush=True)
        results["jobs"][job.name] = measure.measure(job, args.rounds, args.quick, pythons)
        report.write(out, results)
        done += seconds[job.name]
        elapsed = time.perf_counter() - begun
        left = elapsed / done * (total - done)
        print(f"  {elapsed / 60:.1f} minutes so far, about {left / 60:.0f} more", flush=True)
    print(out.with_suffix(".md").read_text())
    print(f"written: {out}, and beside it a table (.md) and a picture (.png)")


if __name__ == "__main__":
    main()
