"""The programs beside the package run as printed in the documentation, on small budgets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_seed_benchmark_draws_a_table_and_a_picture_and_does_not_repeat_itself(tmp_path: Path):
    command = ["scripts/seed_benchmark.py", "--algorithms", "ppo", "pqn", "--envs", "CartPole-v1", "--seeds", "2"]
    command += ["--total-steps", "8192", "--out", str(tmp_path)]
    table = run(*command)
    for algorithm in ("ppo", "pqn"):
        assert f"| {algorithm} | CartPole-v1 | 8,192 |" in table
    assert (tmp_path / "table.md").read_text() in table
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = run(*command)
    assert again.count("is finished") == 2
    assert (tmp_path / "table.md").read_text() in again


def test_the_worker_of_the_speed_benchmark_reports_what_it_measured():
    words = ["benchmarks/workers/purerl_training.py", "--num-envs", "4", "--iterations", "2"]
    report = json.loads(run(*words).splitlines()[-1])
    assert report["env_steps"] == 2 * 4 * 128
    assert 0 < report["run_seconds"] < report["compile_seconds"]
    assert 100 < report["peak_megabytes"] < 4000


def test_the_benchmark_of_populations_measures_each_point_once(tmp_path: Path):
    words = ["-m", "benchmarks.population", "--members", "1", "2", "--only", "ppo", "--processes", "1"]
    words += ["--seconds", "0.05", "--repeats", "1", "--out", str(tmp_path / "population.json")]
    table = run(*words)
    assert "| ppo, CartPole-v1 | " in table
    assert "ppo 2 1: " in table
    assert (tmp_path / "population.png").read_bytes().startswith(b"\x89PNG")
    assert "steps/s" not in run(*words)


def test_population_based_training_beside_a_sweep(tmp_path: Path):
    words = ["scripts/pbt.py", "--envs", "CartPole-v1", "--repeats", "1", "--members", "4", "--total-steps", "8192"]
    words += ["--episodes", "2", "--out", str(tmp_path)]
    assert "| CartPole-v1 | 0 | " in run(*words)
    assert (tmp_path / "CartPole-v1-pbt-0" / "lineage.png").exists()
    assert run(*words).startswith("| environment | repeat |")


def test_system_identification_finds_the_hidden_pendulum_and_draws_it(tmp_path: Path):
    out = run("scripts/system_identification.py", "--mass", "1.5", "--steps", "60", "--out", str(tmp_path / "fit.png"))
    estimate = float(next(line for line in out.splitlines() if line.startswith("| mass |")).split("|")[4])
    assert abs(estimate - 1.5) < 0.05
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_gradient_estimators_are_measured_and_drawn(tmp_path: Path):
    words = ["scripts/gradient_estimators.py", "--num-estimates", "64", "--points", "1"]
    out = run(*words, "--out", str(tmp_path / "estimators.png"))
    for name in ("score function", "leave one out", "pathwise", "Gumbel-softmax", "straight-through"):
        assert f"| {name} | " in out
    assert (tmp_path / "estimators.png").read_bytes().startswith(b"\x89PNG")


def test_first_order_methods_beside_ppo_end_in_a_table_and_a_picture(tmp_path: Path):
    words = ["scripts/differentiable_physics.py", "--env", "smooth/lqr", "--seeds", "2", "--evaluations", "2"]
    words += ["--total-steps", "shac=4096", "apg=4096", "ppo=8192", "--episodes", "2", "--out", str(tmp_path)]
    table = run(*words, "--env.episode-length", "10", "--hidden-sizes", "8")
    for name in ("SHAC", "APG", "PPO"):
        assert f"| {name} | " in table
    assert (tmp_path / "table.md").read_text() in table
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_ablation_of_reference_motions_ends_in_a_table_and_a_picture(tmp_path: Path):
    words = ["scripts/reference_motion.py", "--motions", "flip", "--seeds", "1", "--total-steps", "2048"]
    table = run(*words, "--evaluations", "1", "--episodes", "2", "--out", str(tmp_path / "motion.png"))
    for variant in ("RSI + ET", "ET", "RSI", "neither"):
        assert f"| {variant} | 0." in table
    assert "| reference | 1 | | 1 | | 1.00 |" in table
    assert (tmp_path / "motion.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_tables_end_in_tables_and_pictures(tmp_path: Path):
    words = ["--seeds", "2", "--share", "0.02", "--parts", "cliff", "--out", str(tmp_path)]
    table = run("scripts/tables.py", *words)
    for row in ("q_learning", "double_q_learning"):
        assert f"| {row} | " in table
    for name in ("cliff", "paths"):
        assert (tmp_path / f"tables_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_curiosity_is_measured_and_drawn(tmp_path: Path):
    words = ["--tasks", "deep-sea-10", "--seeds", "1", "--total-steps", "1600", "--evaluations", "1", "--episodes", "2"]
    table = run("scripts/curiosity.py", *words, "--out", str(tmp_path / "curiosity.png"))
    for name in ("ppo", "rnd"):
        assert f"| DeepSea, size 10 | {name} | -0.0" in table
    assert (tmp_path / "curiosity.png").read_bytes().startswith(b"\x89PNG")


def test_cloning_beside_dagger_is_measured_and_drawn(tmp_path: Path):
    tiny = [
        "--total-steps",
        "1024",
        "--eval-episodes",
        "2",
        "--eval-every",
        "0",
        "--hidden-sizes",
        "8",
        "--num-epochs",
        "1",
        "--num-envs",
        "4",
    ]
    run("-m", "purerl", "train", "ppo", "Pendulum-v1", *tiny, "--out", str(tmp_path / "expert"))
    words = ["scripts/imitation.py", str(tmp_path / "expert"), "--seeds", "1", "--labels", "200"]
    out = run(*words, "--updates", "4", "--episodes", "2", "--out", str(tmp_path / "imitation.png"))
    for name in ("bc, demonstrations from upright starts", "bc, demonstrations from all starts", "dagger"):
        assert f"{name}, 200 labels: " in out
    assert (tmp_path / "imitation.png").read_bytes().startswith(b"\x89PNG")


def test_an_outer_search_goes_on_where_it_stopped(tmp_path: Path):
    pytest.importorskip("optuna")
    words = ["scripts/outer_search.py", "--seeds", "1", "--total-steps", "4096", "--out", str(tmp_path), "--trials"]
    assert "best of 1 trials" in run(*words, "1")
    out = run(*words, "2")
    assert "best of 2 trials" in out
    assert out.count("evaluation over") == 1
