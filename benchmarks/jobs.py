"""What `python -m benchmarks` measures: who takes part, in what, and for how long. Data only.

Everyone in a job has the same environment, network, hyper-parameters and number of gradient updates per environment
step, but for what the docstrings of the workers name. Speeds are compared, not totals, so each may train for as many
iterations as take it a second or more.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who is measured.

    Attributes:
        worker: program in ``benchmarks/workers`` and the flags that belong to it.
        peer: whose environment runs it, a key of `peers.PACKAGES`; None is the one that runs this.
    """

    worker: tuple[str, ...]
    peer: str | None = None


CONTESTANTS = {
    "purerl": Contestant(("purerl_training.py",)),
    "purerl, two processes": Contestant(("purerl_training.py", "--processes", "2")),
    "PureJaxRL style": Contestant(("purejaxrl_style_ppo.py",)),
    "rejax": Contestant(("rejax_training.py",), "rejax"),
    "SB3": Contestant(("sb3_training.py", "--library", "sb3"), "sb3"),
    "SBX": Contestant(("sb3_training.py", "--library", "sbx"), "sbx"),
    "Brax": Contestant(("brax_training.py",)),
    "purerl's script": Contestant(("solve.py", "--library", "purerl")),
    "SB3's script": Contestant(("solve.py", "--library", "sb3"), "sb3"),
    "stepping alone": Contestant(("floors.py", "--floor", "stepping")),
    "arithmetic alone": Contestant(("floors.py", "--floor", "arithmetic")),
}
OURS = ("purerl", "purerl, two processes", "purerl's script")
FLOORS = ("stepping alone", "arithmetic alone")
FEW_ENVS = ("--num-envs", "4")


@dataclasses.dataclass(frozen=True)
class Job:
    """One comparison.

    Attributes:
        name: on the command line and in files.
        title: in the table.
        flags: of every worker, without ``--iterations`` and ``--seed``.
        iterations: contestant to what it is given as ``--iterations``, in the order of a round.
        quick: the same for all with ``--quick``.
        quick_flags: added with ``--quick``.
        threads: of the pools of those who do not choose for themselves; None is as many as the whole benchmark has.
        by_seconds: whether the run's seconds are compared rather than environment steps per second.
        worker_seconds: what one worker takes on a quiet machine with two cores: starting, compiling, a run to warm up
            and the one that counts. For an estimate.
    """

    name: str
    title: str
    flags: Mapping[str, Any]
    iterations: Mapping[str, int]
    quick: int
    quick_flags: tuple[str, ...] = ()
    threads: int | None = None
    by_seconds: bool = False
    worker_seconds: float = 14.0


def _ppo(num_envs: int, seeds: int, **iterations: int) -> Job:
    name = f"ppo-cartpole-{num_envs}-envs" + (f"-{seeds}-seeds" if seeds > 1 else "")
    title = f"PPO, CartPole, {num_envs} environments" + (f", {seeds} seeds" if seeds > 1 else "")
    return Job(
        name,
        title,
        {"algorithm": "ppo", "num-envs": num_envs, "seeds": seeds},
        _named(iterations),
        quick=2,
        quick_flags=FEW_ENVS,
    )


def _off_policy(algorithm: str, seeds: int, **iterations: int) -> Job:
    env = "CartPole-v1" if algorithm == "dqn" else "Pendulum-v1"
    name = f"{algorithm}-{env.split('-')[0].lower()}" + (f"-{seeds}-seeds" if seeds > 1 else "")
    title = f"{algorithm.upper()}, {env.split('-')[0]}" + (f", {seeds} seeds" if seeds > 1 else "")
    return Job(name, title, {"algorithm": algorithm, "env": env, "seeds": seeds}, _named(iterations), quick=50)


def _brax(algorithm: str, env: str, num_envs: int, **iterations: int) -> Job:
    title = f"{algorithm.upper()}, Brax {env}, {num_envs} environments"
    flags = {"algorithm": algorithm, "env": f"brax/{env}", "num-envs": num_envs}
    return Job(
        f"{algorithm}-brax-{env}", title, flags, _named(iterations), quick=2, quick_flags=FEW_ENVS, worker_seconds=28.0
    )


def _two_cores(job: Job) -> Job:
    """The same for those that use both."""
    threads = 4  # the smallest pool that was never seen to hang
    return dataclasses.replace(job, name=f"{job.name}-two-cores", title=f"{job.title}, two cores", threads=threads)


def _named(iterations: Mapping[str, int]) -> dict[str, int]:
    names = {
        "processes": "purerl, two processes",
        "purejaxrl": "PureJaxRL style",
        "sb3": "SB3",
        "sbx": "SBX",
        "brax": "Brax",
        "stepping": "stepping alone",
        "arithmetic": "arithmetic alone",
    }
    return {names.get(name, name): count for name, count in iterations.items()}


JOBS = [
    _ppo(4, 1, purerl=800, purejaxrl=800, rejax=800, sb3=6, sbx=6, stepping=4_000, arithmetic=800),
    _ppo(256, 1, purerl=30, purejaxrl=30, rejax=30, sb3=1, sbx=1, stepping=200, arithmetic=30),
    _ppo(2048, 1, purerl=4, purejaxrl=4, rejax=4, sb3=1, sbx=1, stepping=40, arithmetic=4),
    _ppo(4, 16, purerl=60, purejaxrl=60, rejax=60),
    _ppo(4, 64, purerl=15, purejaxrl=15, rejax=15, stepping=250, arithmetic=15),
    _two_cores(_ppo(4, 64, processes=30, purejaxrl=15, rejax=15)),
    Job(
        "ppo-breakout",
        "PPO, Breakout-MinAtar (convolution), 64 environments",
        {"algorithm": "ppo", "env": "Breakout-MinAtar", "num-envs": 64},
        _named({"purerl": 4, "purejaxrl": 2, "rejax": 2, "stepping": 100, "arithmetic": 4}),
        quick=1,
        quick_flags=FEW_ENVS,
    ),
    _off_policy("dqn", 1, purerl=30_000, rejax=3_000, sb3=2_000, sbx=2_000, stepping=2_000_000, arithmetic=30_000),
    _off_policy("dqn", 8, purerl=6_000, rejax=600),
    _off_policy("dqn", 64, purerl=1_000, rejax=50, arithmetic=1_000),
    _off_policy("sac", 1, purerl=4_000, rejax=2_000, sb3=400, sbx=1_000, stepping=2_000_000, arithmetic=4_000),
    _off_policy("sac", 8, purerl=600, rejax=300),
    _off_policy("sac", 64, purerl=60, rejax=30, arithmetic=60),
    _two_cores(_off_policy("sac", 64, processes=120, rejax=30)),
    _off_policy("td3", 1, purerl=6_000, rejax=2_000, sb3=500, sbx=1_000, stepping=2_000_000, arithmetic=6_000),
    _off_policy("td3", 8, purerl=1_000, rejax=300),
    _off_policy("td3", 64, purerl=100, rejax=30, arithmetic=100),
    _two_cores(_off_policy("td3", 64, processes=200, rejax=30)),
    _brax("ppo", "reacher", 64, purerl=20, brax=20, stepping=20, arithmetic=20),
    _brax("ppo", "ant", 256, purerl=5, brax=5, stepping=5, arithmetic=5),
    _brax("sac", "reacher", 8, purerl=100, brax=100),
    _brax("apg", "reacher", 16, purerl=40, brax=40),
    Job(
        "solve-cartpole",
        "CartPole to 475, whole process",
        {},
        {"purerl's script": 100_000, "SB3's script": 100_000},
        quick=5_120,  # the first of the evaluations of SB3
        quick_flags=("--quick",),
        by_seconds=True,
    ),
]
