"""Flags to configuration to algorithm, and back from JSON."""

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import pytest

import purerl
from purerl import cpu, device_memory, presets
from purerl.cli import configure, flags, parser, schedules
from purerl.cli.config import RunConfig
from purerl.cli.evaluation import Evaluator
from purerl.cli.fields import hyperparameters
from purerl.cli.network import build_network, complete_network, default_network
from purerl.cli.objects import PREFIXES, build_object, complete_object, default_object
from purerl.cli.run_directory import RunDirectory
from purerl.cli.training import Training
from purerl.environments import environment_names
from purerl.errors import InputError
from purerl.learning.random_network_distillation import RandomNetworkDistillation
from purerl.presets import preset, row
from purerl.training.in_process import InProcess


def made(typed: str = "", env: str = "CartPole-v1", algorithm: str = "ppo") -> RunConfig:
    return configure.configure(algorithm, env, shlex.split(typed))[0]


def test_a_configuration_survives_json() -> None:
    before = made(
        "--seeds 3 --vary gamma=.9,.99 --hidden-sizes 8 8 --activation relu --shared --clip-eps none --kl-target .01 "
        "--env.gravity 12.5 --no-normalize-advantage --anneal"
    )
    after = RunConfig.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    one, other = before.population(), after.population()
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all() if hasattr(a, "all") else a == b, one, other))
    assert one.num_members == 6
    assert other.algorithm.clip_eps is None
    assert other.algorithm.network.trunk.hidden_sizes == (8, 8)
    assert other.algorithm.network.shared
    assert float(other.env.params.gravity) == 12.5
    assert other.algorithm.learning_rate == purerl.LinearSchedule(2.5e-4, 0.0, before.total_steps)


def test_flags_may_come_before_names() -> None:
    from purerl.cli.train import _targets

    assert _targets(shlex.split("ppo CartPole-v1 --seeds 8")) == ("ppo", "CartPole-v1", ["--seeds", "8"])
    assert _targets(shlex.split("--seeds 8 ppo CartPole-v1 --seed 1"))[:2] == ("ppo", "CartPole-v1")
    assert _targets(shlex.split("--resume runs/x")) == (None, None, ["--resume", "runs/x"])
    assert _targets(shlex.split("--resume run:1"))[:2] == (None, None)
    assert _targets(shlex.split("--seeds 8 my.module:Agent my.envs:Env")) == (
        "my.module:Agent",
        "my.envs:Env",
        ["--seeds", "8"],
    )


def test_totals_are_rounded_up() -> None:
    run = made("--total-steps 1000")
    assert (run.requested_steps, run.total_steps, run.num_iterations) == (1000, 1024, 2)
    assert made("--total-steps 1e4").requested_steps == 10_000


@pytest.mark.parametrize("num_iterations", [1, 2, 9, 49, 50, 51, 99, 977, 100_000])
def test_default_intervals_fit_any_length(num_iterations: int) -> None:
    log, evaluate, checkpoint = configure.intervals(num_iterations, None, None, None, 20)
    assert evaluate % log == checkpoint % log == 0
    assert math.ceil(num_iterations / log) <= configure.LOG_POINTS
    assert num_iterations // evaluate < 30
    assert num_iterations < 50 or num_iterations // evaluate >= 15
    assert num_iterations < 50 or num_iterations // checkpoint >= configure.CHECKPOINTS - 1


def test_given_intervals_are_kept() -> None:
    assert configure.intervals(1000, None, 15, 25, 20) == (5, 15, 25)
    assert configure.intervals(1000, None, 0, 7, 20) == (7, 0, 7)
    assert configure.intervals(1000, 10, 0, None, 20)[1] == 0


def test_values_are_parsed_as_their_kind() -> None:
    assert parser.Flag("x", "int", "").parse("1e6") == 1_000_000
    assert isinstance(parser.Flag("x", "int", "").parse("1e6"), int)
    assert parser.Flag("x", "float | None", "").parse("None") is None
    assert parser.Flag("x", "int", "", many=True).parse(["3", "4"]) == [3, 4]
    free = parser.Flag("x", "any | None", "")
    assert [free.parse(text) for text in ("none", "3", "0.5", "spring", "nan")] == [None, 3, 0.5, "spring", "nan"]


def test_parameters_follow_the_kind_of_their_part() -> None:
    dqn = row("dqn").load()
    assert complete_network(dqn, {}, {}) == {
        "trunk": "mlp",
        "hidden_sizes": (120, 84),
        "activation": "relu",
        "layer_norm": False,
        "head": "mean",
        "huber_delta": 1.0,
        "dueling": False,
        "noisy": False,
    }
    # A preset's parameters of a trunk count for its own kind of trunk only.
    preset = {"hidden_sizes": (8,), "noisy": True, "head": "c51", "num_atoms": 7}
    chosen = complete_network(dqn, preset, {"trunk": "cnn"})
    cnn = purerl.CNN()
    assert (chosen["channels"], chosen["hidden_sizes"]) == (cnn.channels, cnn.hidden_sizes)
    assert (chosen["noisy"], chosen["num_atoms"]) == (True, 7)
    assert complete_network(dqn, preset, {})["hidden_sizes"] == (8,)
    assert "num_atoms" not in complete_network(dqn, preset, {"head": "quantile"})


@pytest.mark.parametrize("name", presets.ALGORITHMS)
def test_default_networks_survive_plain_data(name: str) -> None:
    algorithm = row(name).load()
    plain = json.loads(json.dumps(complete_network(algorithm, {}, {})))
    if default_network(algorithm) is None:
        assert plain == {}
        return
    assert build_network(algorithm, plain) == default_network(algorithm)
    assert build_network(algorithm, {}) == default_network(algorithm)  # as an older run that knows less


@pytest.mark.parametrize(
    "head", ["--huber-delta 2", "--head c51 --num-atoms 7 --v-min -3 --v-max 5", "--head quantile"]
)
def test_networks_survive_plain_data(head: str) -> None:
    run = made(f"{head} --trunk cnn --channels 4 5 --kernel 2 3 --dueling --activation elu", "Breakout-MinAtar", "dqn")
    network = run.population().algorithm.network
    assert network.trunk == purerl.CNN((4, 5), (2, 3), activation=jax.nn.elu)
    assert network.dueling
    again = RunConfig.from_json(json.loads(json.dumps(run.to_json(), allow_nan=False)))
    assert again.population().algorithm.network == network
    if "c51" in head:
        assert (network.head.num_atoms, network.head.v_min, network.head.v_max) == (7, -3.0, 5.0)


def test_what_a_network_does_not_have_is_named() -> None:
    for data, words in (
        ({"trunk": "rnn"}, "unknown --trunk value 'rnn'"),
        ({"duelling": True}, "'dueling'"),
        ({"num_atoms": 7}, "--num-atoms is not for --head mean, which has --huber-delta"),
        ({"activation": "rellu"}, "'relu'"),
    ):
        with pytest.raises(InputError, match=words):
            build_network(row("dqn").load(), data)


TUNED = [(row.name, env) for row in presets.ALGORITHMS.values() for env in row.tuned]


@pytest.mark.parametrize(("algorithm", "env"), TUNED)
def test_tuned_presets_build(algorithm: str, env: str, tmp_path: Path) -> None:
    assert env in environment_names()
    typed = ""
    if algorithm in ("bc", "gail"):
        made_env = purerl.make(env)
        policy = purerl.experience.policies.uniform(made_env)
        purerl.record(made_env, policy, jax.random.key(0), 10).save(tmp_path / "demos.npz")
        typed = f"{'--' if algorithm == 'bc' else '--reward-model.'}demonstrations {tmp_path}/demos"
    run = made(typed, env=env, algorithm=algorithm)
    population = run.population()
    jax.eval_shape(population.init, jax.random.key(0))
    assert run.num_iterations >= 10 + population.warmup_iterations


GENERIC = [
    *(("ppo", env) for env in ("MountainCar-v0", "Reacher-misc", "Asterix-MinAtar", "FrozenLake-misc", "brax/reacher")),
    *((name, env) for name in ("a2c", "impala") for env in ("MountainCar-v0", "Asterix-MinAtar", "brax/reacher")),
    *((name, env) for name in ("dqn", "rainbow", "pqn") for env in ("MountainCar-v0", "Asterix-MinAtar")),
    *(("discrete_sac", env) for env in ("MountainCar-v0", "Asterix-MinAtar")),
    *((name, env) for name in ("ddpg", "td3", "sac") for env in ("Reacher-misc", "brax/reacher")),
]


@pytest.mark.parametrize(("algorithm", "env"), GENERIC)
def test_generic_presets_build(algorithm: str, env: str) -> None:
    population = made(env=env, algorithm=algorithm).population()
    jax.eval_shape(population.init, jax.random.key(0))
    trunk = type(population.algorithm.network.trunk).__name__
    assert trunk == ("CNN" if env == "Asterix-MinAtar" else "MLP")


def test_presets_name_real_fields() -> None:
    for algorithm, env in TUNED:
        settings = preset(algorithm, env)
        fields = {field.name for field in hyperparameters(row(algorithm).load())}
        assert settings.hyperparameters.keys() <= fields
        for part in PREFIXES:
            values = getattr(settings, part)
            assert values.keys() <= complete_object(row(algorithm).load(), part, values, {}).keys()
        known = complete_network(row(algorithm).load(), settings.network, {})
        assert settings.network.keys() <= known.keys()
    with pytest.raises(InputError, match="unknown algorithm"):
        preset("pqo", "CartPole-v1")


def test_a_preset_is_extended_entry_by_entry() -> None:
    start = presets.Preset({"gamma": 0.9, "n_step": 3}, network={"noisy": True}, anneal=False)
    longer = start.extended(hyperparameters={"gamma": 0.8}, network={"trunk": "cnn"}, total_steps=7)
    assert longer == presets.Preset(
        {"gamma": 0.8, "n_step": 3}, network={"noisy": True, "trunk": "cnn"}, total_steps=7, anneal=False
    )


def test_rainbow_is_dqn_with_presets_of_its_own() -> None:
    rainbow, dqn = (made(algorithm=name).population().algorithm for name in ("rainbow", "dqn"))
    assert type(rainbow) is type(dqn) is purerl.DQN
    assert rainbow.double
    assert rainbow.network.noisy
    assert rainbow.priority_exponent is not None
    assert not dqn.double


def test_a_choice_is_a_word_on_the_command_line_and_in_json() -> None:
    run = made("--baseline mean", algorithm="reinforce")
    assert run.hyperparameters["baseline"] == "mean"
    assert made(algorithm="reinforce").hyperparameters["baseline"] == "value"
    again = RunConfig.from_json(json.loads(json.dumps(run.to_json())))
    assert again.population().algorithm.baseline is purerl.Baseline.MEAN
    group = flags.hyperparameter_group("reinforce", purerl.REINFORCE, preset("reinforce", "CartPole-v1"))
    flag = next(flag for flag in group.flags if flag.name == "baseline")
    assert (flag.default, flag.choices) == ("value", ("none", "mean", "value"))
    with pytest.raises(InputError, match="unknown --baseline value 'means': did you mean 'mean'"):
        made("--baseline means", algorithm="reinforce")
    with pytest.raises(InputError, match="--vary baseline: it shapes the compiled program"):
        made("--vary baseline=none,mean", algorithm="reinforce")
    with pytest.raises(InputError, match="unknown baseline value 'median'"):
        dataclasses.replace(run, hyperparameters={"baseline": "median"}).population()


def test_schedules_have_environment_steps_of_the_run() -> None:
    short = made("--total-steps 40000", algorithm="dqn")
    assert short.hyperparameters["epsilon"] == "linear:1:0.05:20000"
    given = made("--total-steps 40000 --epsilon cosine:1:0 --learning-rate linear:1e-3:1e-4:300", algorithm="dqn")
    assert given.hyperparameters["epsilon"] == "cosine:1:0:40000"
    agent = given.population().algorithm
    assert agent.epsilon == purerl.CosineSchedule(1.0, 0.0, 40_000)
    assert agent.learning_rate == purerl.LinearSchedule(1e-3, 1e-4, 300)
    longer = configure.with_total_steps(short, short.population(), 80_000)
    assert longer.hyperparameters == short.hyperparameters
    assert longer.total_steps == 80_000
    assert longer.population().algorithm.epsilon == purerl.LinearSchedule(1.0, 0.05, 20_000)


def test_annealing_is_for_learning_rates_that_are_numbers() -> None:
    run = made("--learning-rate 1e-3 --critic-learning-rate linear:1e-3:1e-4", algorithm="reinforce")
    agent = run.population().algorithm
    assert agent.learning_rate == purerl.LinearSchedule(1e-3, 0.0, run.total_steps)
    assert agent.critic_learning_rate == purerl.LinearSchedule(1e-3, 1e-4, run.requested_steps)
    assert made("--learning-rate 1e-3 --no-anneal").population().algorithm.learning_rate == 1e-3


def test_the_optimiser_is_chosen_by_flags() -> None:
    agent = made("--optimizer adamw --weight-decay 0.1 --eps 1e-3").population().algorithm
    assert agent.optimizer == purerl.AdamW(weight_decay=0.1, eps=1e-3, max_grad_norm=0.5)
    agent = made("--optimizer rmsprop --no-eps-in-sqrt --max-grad-norm none", algorithm="a2c").population().algorithm
    assert agent.optimizer == purerl.RMSProp(eps=1e-5, eps_in_sqrt=False)
    continuous = made(env="Pendulum-v1", algorithm="a2c").population().algorithm
    assert continuous.optimizer == purerl.Adam(eps=1e-5, max_grad_norm=0.5)
    with pytest.raises(InputError, match="--weight-decay is not for --optimizer adam"):
        made("--weight-decay 0.1")


@pytest.mark.parametrize(
    ("typed", "path", "values"),
    [
        ("--vary learning-rate=1e-3,1e-4", "learning_rate.start", [1e-3, 1e-4]),
        ("--no-anneal --vary learning-rate=1e-3,1e-4", "learning_rate", [1e-3, 1e-4]),
        ("--vary max-grad-norm=0.5,5", "optimizer.max_grad_norm", [0.5, 5.0]),
        ("--vary epsilon=0.1,0.2", "epsilon", [0.1, 0.2]),
        ("--vary epsilon.end=0.1,0.2", "epsilon.end", [0.1, 0.2]),
        ("--anneal --vary critic-learning-rate=1e-3,1e-4", "critic_learning_rate.start", [1e-3, 1e-4]),
    ],
)
def test_what_varies_may_be_scheduled_or_belong_to_the_optimiser(typed: str, path: str, values: list[float]) -> None:
    algorithm = "reinforce" if "critic" in typed else "pqn"
    varied = made(typed, algorithm=algorithm).population().varied
    assert list(varied) == [path]
    assert varied[path].tolist() == pytest.approx(values)


def test_a_schedule_of_the_learning_rate_is_instead_of_annealing() -> None:
    scheduled = made("--learning-rate cosine:1e-3:1e-4")
    assert not scheduled.anneal
    assert made("--learning-rate linear:1e-3:0", algorithm="reinforce").anneal  # of the critic
    assert scheduled.population().algorithm.learning_rate == purerl.CosineSchedule(1e-3, 1e-4, 500_000.0)
    with pytest.raises(InputError, match="give either --anneal or a schedule of --learning-rate"):
        made("--anneal --learning-rate linear:1e-3:0")


def test_schedules_are_text_without_loss() -> None:
    schedule = purerl.LinearSchedule(1.0 / 3.0, 0.0, 1e6 / 7.0)
    assert schedules.build(schedules.text_of(schedule) or "") == schedule
    assert schedules.text_of(purerl.LinearSchedule(1.0, 0.05, 250_000.0)) == "linear:1:0.05:250000"
    assert made("--total-steps 100000 --epsilon linear:1:0:33.3%", algorithm="dqn").population().algorithm.epsilon == (
        purerl.LinearSchedule(1.0, 0.0, 33_300.0)
    )


@pytest.mark.parametrize("part", PREFIXES)
@pytest.mark.parametrize("name", presets.ALGORITHMS)
def test_default_objects_survive_plain_data(name: str, part: str) -> None:
    algorithm = row(name).load()
    plain = json.loads(json.dumps(complete_object(algorithm, part, {}, {})))
    default = default_object(algorithm, part)
    built = {} if default is None else {part: default}
    assert build_object(algorithm, part, plain) == build_object(algorithm, part, {}) == built


def test_the_reward_model_is_chosen_by_flags() -> None:
    run = made("--reward-model rnd --reward-model.coef linear:1:0:50% --reward-model.hidden-sizes 8 16 --seeds 2")
    again = type(run).from_json(json.loads(json.dumps(run.to_json())))
    for config in (run, again):
        model = config.population().algorithm.reward_model
        assert model == RandomNetworkDistillation(purerl.LinearSchedule(1.0, 0.0, 250_000.0), hidden_sizes=(8, 16))
    varied = made("--reward-model rnd --vary reward-model.coef=0.5,2").population()
    assert varied.varied["reward_model.coef"].tolist() == [0.5, 2.0]
    with pytest.raises(InputError, match=r"--reward-model\.coef is not for --reward-model environment, which has no"):
        made("--reward-model.coef 2")
    with pytest.raises(InputError, match=r"--vary reward-model\.coef is for --reward-model rnd, not for environment"):
        made("--vary reward-model.coef=1,2")
    with pytest.raises(InputError, match="unknown flag '--reward-model'"):
        made("--reward-model rnd", algorithm="dqn")


def test_a_warm_up_is_no_training() -> None:
    run = made("--warmup-steps 10000 --total-steps 11000", algorithm="dqn")
    assert run.num_iterations == 1100
    assert run.log_every == 2  # 50 rows in the 100 iterations that are left
    assert run.checkpoint_every == 10  # 10 of them
    assert run.eval_every == 20  # 5, as the run is short
    with pytest.raises(InputError, match=r"warmup_steps = 10,000, got 10,000"):
        made("--warmup-steps 10000 --total-steps 10000", algorithm="dqn")
    assert made("--warmup-steps 10000 --total-steps 10001", algorithm="dqn").num_iterations == 1001


def test_a_population_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, many = (made(f"--seeds {seeds} --buffer-size 100000", algorithm="dqn") for seeds in (1, 8))
    needed = device_memory.num_bytes(Training(one).shapes)
    assert needed > 100_000 * 4 * 4
    monkeypatch.setattr(device_memory, "device_bytes", lambda: 2 * needed)
    Training(one)
    with pytest.raises(InputError, match=r"the state of 8 members x .* needs .* rollout_length or buffer_size smaller"):
        Training(many)


def test_every_environment_option_is_a_flag() -> None:
    from purerl.environments import environment_options, options_of

    for name in ("Acrobot-v1", "FourRooms-misc", "FrozenLake-misc", "pixels/CartPole-v1", "brax/ant", "brax/fast"):
        group = flags.env_group(name, options_of(name), {})
        assert {flag.name for flag in group.flags} == {f"env.{option}" for option in environment_options(name)}
        assert all(flag.description for flag in group.flags)


def test_environment_options_reach_the_environment() -> None:
    run = made("--env.healthy-z-range .3 1 --env.backend spring --env.n-frames 2", env="brax/ant")
    assert run.env_options == {"healthy_z_range": [0.3, 1.0], "backend": "spring", "n_frames": 2}
    assert "backend='spring'" in repr(run.population().env)
    run = made("--env.keep 2 0 --env.frame-stack 3")
    assert run.env_options == {"keep": [2, 0], "frame_stack": 3}
    assert run.population().env.observation_space.shape == (6,)


def test_rows_are_cut_back_to_a_checkpoint(tmp_path: Path) -> None:
    with RunDirectory.begin(made(), tmp_path / "run") as run:
        pass
    for iteration in (10, 20, 30):
        run.append([{"iteration": iteration, "env_steps": 0, "member": member, "x": None} for member in range(2)])
    file = run.path / "metrics.jsonl"
    with file.open("ab") as damaged:
        damaged.write(b'{"iteration": 20, "env_st\n\xff\x00')
    run.truncate(20)
    assert [json.loads(line)["iteration"] for line in file.read_text().splitlines()] == [10, 10, 20, 20]
    run.truncate(0)
    assert file.read_text() == ""


@pytest.mark.parametrize(
    ("cores", "nproc", "devices", "expected"),
    [
        (1, None, 1, "1"),
        (3, None, 1, "1"),
        (4, None, 1, None),
        (2, "3", 1, "3"),
        (4, None, 8, "16"),
        (64, None, 8, None),
    ],
)
def test_thread_pool(
    cores: int, nproc: str | None, devices: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: cores)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_other --xla_force_host_platform_device_count={devices}")
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.delenv("NPROC", raising=False)
    if nproc:
        monkeypatch.setenv("NPROC", nproc)
    changed = cpu.choose_thread_pool()
    assert os.environ.get("NPROC") == expected
    assert changed == (nproc is None and expected is not None)
    monkeypatch.delenv("NPROC", raising=False)  # `choose_thread_pool` sets it behind monkeypatch's back


def test_the_command_line_chooses_before_jax_is_imported(tmp_path: Path) -> None:
    code = "import os; from purerl import cpu; cpu.usable_cores = lambda: 2; from purerl.cli import main; "
    code += "main(['algorithms', 'ppo']); print(os.environ['NPROC'], os.environ['JAX_COMPILATION_CACHE_DIR'])"
    env = {k: v for k, v in os.environ.items() if k not in ("NPROC", "JAX_COMPILATION_CACHE_DIR")}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.splitlines()[-1] == f"1 {tmp_path / 'purerl' / 'xla'}", done.stderr


@pytest.mark.parametrize("name", ["CartPole-v1", "brax/inverted_pendulum"])
def test_no_parameter_is_tied_to_a_device(name: str) -> None:
    # What is computed from one would be too, and training would compile its program a second time.
    leaves = jax.tree.leaves(made(env=name).population())
    assert leaves
    assert not any(isinstance(leaf, jax.Array) and leaf.committed for leaf in leaves)


@pytest.mark.parametrize(
    ("total_steps", "time_limit", "plan"),
    [
        (500_000, 500, (20, 5, 128)),
        (20_000, 200, (5, 4, 50)),
        (25_000_000, 1000, (20, 32, 128)),
        (10_000, None, (5, 4, 16)),
    ],
)
def test_evaluations_are_few_where_episodes_are_a_large_part_of_the_run(
    total_steps: int, time_limit: int | None, plan: tuple[int, int, int]
) -> None:
    assert configure.evaluation_plan(total_steps, {"episode_length": time_limit, "action_repeat": 1}) == plan
    if time_limit is not None:
        assert configure.evaluation_plan(total_steps, {"episode_length": 2 * time_limit, "action_repeat": 2}) == plan


def test_an_evaluation_that_is_stopped_between_batches_has_no_outcome() -> None:
    agent = purerl.PPO(env=purerl.make("CartPole-v1"), network=purerl.ActorCritic(trunk=purerl.MLP((8,))))
    members = InProcess(purerl.Population(agent, 2))
    members.compile_init()
    members.init(jax.random.key(0))
    evaluator = Evaluator(members, 4, explore=False)
    played = evaluator(jax.random.key(1), 6)
    assert played is not None
    assert played.episode_return.shape == (2, 6)
    answers = iter([False, True])
    assert evaluator(jax.random.key(1), 6, lambda: next(answers)) is None


def test_pieces_are_as_long_as_the_measured_speed_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pieces = 0.0, []

    class Slow:
        """Takes a second for an iteration, and a quarter of that for the first ones."""

        def advance(self, num_iterations: int, metrics: None) -> None:
            nonlocal now
            now += num_iterations * (0.25 if len(pieces) < 3 else 1.0)
            pieces.append(num_iterations)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    run = Training(made())
    screen, stop = types.SimpleNamespace(progress=lambda *_: None), types.SimpleNamespace(requested=False)
    run._advance(Slow(), 58, stop, screen)  # type: ignore[arg-type]
    assert pieces == [1, 4, 16, 20, 5, 5, 5, 2]
