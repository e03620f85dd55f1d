"""Throughput of populations: environment steps per second of all members together, for more and more members.

PPO and DQN on CartPole and SAC on Pendulum, with the settings of their presets. On a CPU with one process and with two;
on an accelerator with one. Each point is the median of three runs of at least two seconds each. Results are added to a
JSON file and are not measured again; the table and the picture are made from it.

Usage: python -m benchmarks.population                     one and two cores, 1 to 256 members
       python -m benchmarks.population --accelerator       1 to 4,096 members, in less than eight minutes
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from pathlib import Path
from typing import Any

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import numpy as np  # noqa: E402

from purerl import presets  # noqa: E402
from purerl.cli.config import RunConfig  # noqa: E402
from purerl.cli.configure import configure  # noqa: E402
from purerl.training.in_process import InProcess  # noqa: E402
from purerl.training.local_worker import parts  # noqa: E402

PAIRS = (("ppo", "CartPole-v1"), ("dqn", "CartPole-v1"), ("sac", "Pendulum-v1"))
ON_CPU, ON_ACCELERATOR = (1, 4, 16, 64, 256), (1, 16, 256, 1024, 4096)
RESULTS = Path(__file__).parent / "results"
COLORS = {"ppo": "#0072B2", "dqn": "#D55E00", "sac": "#009E73"}


def config_of(algorithm: str, env: str, members: int, buffer_size: int) -> RunConfig:
    """Settings of the preset; replays no larger than `buffer_size`, so that 4,096 of them fit."""
    row = presets.row(algorithm)
    words = ["--seeds", str(members), "--no-anneal"]
    if any(field == "buffer_size" for field in row.load().__dataclass_fields__):
        words += ["--buffer-size", str(buffer_size), "--warmup-steps", "1000"]
    return configure(algorithm, env, words)[0]


def build(config: RunConfig) -> Any:
    return config.population()


def measure(config: RunConfig, processes: int, seconds: float, repeats: int) -> dict[str, float]:
    """Median of the steps per second of all members, and seconds of compiling."""
    begun = time.perf_counter()
    population = config.population()
    members = InProcess(population) if processes == 1 else parts(functools.partial(build, config), processes, 3600.0)
    with members:
        members.compile_init()
        members.init(jax.random.key(0))
        members.advance(0)
        compile_seconds = time.perf_counter() - begun
        iterations, taken = 1, 0.0
        while taken < seconds:
            begun = time.perf_counter()
            members.advance(iterations)
            taken = time.perf_counter() - begun
            iterations *= 1 if taken >= seconds else max(2, min(16, int(1.2 * seconds / max(taken, 1e-3))))
        rates = []
        for _ in range(repeats):
            begun = time.perf_counter()
            members.advance(iterations)
            rates.append(
                iterations * population.steps_per_iteration * config.num_members / (time.perf_counter() - begun)
            )
    return {"steps_per_second": float(np.median(rates)), "compile_seconds": compile_seconds}


def table(results: dict[str, dict[str, float]], numbers: list[int]) -> str:
    """Thousand steps per second, and the ratio to one member on one core."""
    lines = ["| | " + " | ".join(map(str, numbers)) + " |", "|---|" + "---:|" * len(numbers)]
    for algorithm, env in PAIRS:
        first = results.get(f"{algorithm} 1 1", {}).get("steps_per_second")
        for processes in (1, 2):
            cells = []
            for number in numbers:
                found = results.get(f"{algorithm} {number} {processes}")
                ratio = f" ({found['steps_per_second'] / first:.1f})" if found and first else ""
                cells.append(f"{found['steps_per_second'] / 1e3:.3g}{ratio}" if found else "")
            if any(cells):
                where = f", {processes} processes" if processes > 1 else ""
                lines.append(f"| {algorithm}, {env}{where} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, dict[str, float]], out: Path) -> None:
    """Steps per second against the number of members."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
    for algorithm, env in PAIRS:
        for processes, style in ((1, "-o"), (2, "--s")):
            points = sorted(
                (int(name.split()[1]), found["steps_per_second"])
                for name, found in results.items()
                if name.split()[0] == algorithm and name.split()[2] == str(processes)
            )
            if points:
                label = f"{algorithm}, {env}" if processes == 1 else f"{algorithm}, two processes"
                axes.plot(*zip(*points, strict=True), style, color=COLORS[algorithm], label=label, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="members", ylabel="environment steps per second, all members")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", action="store_true", help="up to 4,096 members, one process")
    parser.add_argument("--members", type=int, nargs="+", help="numbers of members")
    parser.add_argument("--only", nargs="+", default=[algorithm for algorithm, _ in PAIRS], help="algorithms")
    parser.add_argument("--processes", type=int, nargs="+", help="numbers of processes (default 1 and 2 on a CPU)")
    parser.add_argument("--buffer-size", type=int, default=10_000, help="capacity of replays (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of a run (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each point (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "population.json", help="file of results")
    args = parser.parse_args()
    numbers = args.members or list(ON_ACCELERATOR if args.accelerator else ON_CPU)
    processes = args.processes or ([1] if args.accelerator else [1, 2])
    device = jax.devices()[0]
    hardware = f"{device.device_kind}, {platform.machine()}"
    data = json.loads(args.out.read_text()) if args.out.exists() else {"hardware": hardware, "results": {}}
    for algorithm, env in PAIRS:
        for number in numbers:
            for count in processes:
                name = f"{algorithm} {number} {count}"
                if algorithm not in args.only or count > number or name in data["results"]:
                    continue
                found = measure(config_of(algorithm, env, number, args.buffer_size), count, args.seconds, args.repeats)
                data["results"][name] = found
                args.out.write_text(json.dumps(data, indent=1) + "\n")
                print(
                    f"{name}: {found['steps_per_second']:,.0f} steps/s, compiled in {found['compile_seconds']:.1f} s",
                    flush=True,
                )
    print(table(data["results"], numbers))
    draw(data["results"], args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
