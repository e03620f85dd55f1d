"""Every mistake gets one line on stderr and exit code 2, before anything compiles or any file changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from purerl.cli import configure, main
from purerl.cli.run_directory import RunDirectory
from purerl.training import loop

PPO = "train ppo CartPole-v1"
DQN = "train dqn CartPole-v1"

# What is typed, and words that the error must contain. {tmp} is a directory with the files made below.
CASES = [
    # commands and names
    ("trian ppo CartPole-v1", ["unknown command 'trian'", "'train'"]),
    ("--seeds 3", ["unknown command"]),
    ("train", ["name an algorithm"]),
    ("train --seeds 8", ["name an algorithm"]),
    ("train pppo CartPole-v1", ["unknown algorithm 'pppo'", "'ppo'"]),
    ("train rainbo CartPole-v1", ["unknown algorithm 'rainbo'", "'rainbow'"]),
    ("train sac-discrete CartPole-v1", ["unknown algorithm", "'discrete_sac'"]),
    ("train CartPole-v1 ppo", ["unknown algorithm 'CartPole-v1'"]),
    ("train ppo", ["name an environment"]),
    ("train ppo --seeds 8", ["name an environment"]),
    ("train ppo CartPole-v2", ["unknown environment 'CartPole-v2'", "'CartPole-v1'"]),
    ("train ppo cartpole-v1", ["'CartPole-v1'"]),
    ("train ppo brax/antt", ["unknown environment", "'brax/ant'"]),
    ("train ppo CartPole-v1 Acrobot-v1", ["unexpected argument 'Acrobot-v1'"]),
    ("envs NoSuchThing", ["unknown environment"]),
    ("algorithms pqo", ["unknown algorithm 'pqo'", "'ppo'"]),
    # flags
    (f"{PPO} --learning-rat 1e-3", ["unknown flag '--learning-rat'", "'--learning-rate'"]),
    (f"{PPO} --learning_rate 1e-3", ["'--learning-rate'"]),
    (f"{PPO} --no-normalise-advantage", ["'--no-normalize-advantage'"]),
    (f"{PPO} --learning 1e-3", ["unknown flag '--learning'"]),
    (f"{PPO} --zzz=3", ["unknown flag '--zzz'", "--help"]),
    (f"{PPO} -x", ["unknown flag '-x'"]),
    (f"{PPO} --seeds", ["--seeds", "expected one argument"]),
    (f"{PPO} --tensorboard=yes", ["--tensorboard"]),
    # values
    (f"{PPO} --seeds two", ["--seeds must be a whole number", "'two'"]),
    (f"{PPO} --seeds 0", ["--seeds must lie in [1, inf)", "got 0"]),
    (f"{PPO} --seeds -4", ["--seeds must lie in [1, inf)", "got -4"]),
    (f"{PPO} --seeds 2.5", ["--seeds must be a whole number", "'2.5'"]),
    (f"{PPO} --seed -1", ["--seed must lie in"]),
    (f"{PPO} --learning-rate fast", ["--learning-rate must be a finite number", "'fast'"]),
    (f"{PPO} --learning-rate -1e-3", ["--learning-rate must lie in [0, inf)", "-0.001"]),
    (f"{PPO} --learning-rate nan", ["--learning-rate must be a finite number"]),
    (f"{PPO} --learning-rate none", ["--learning-rate must be a finite number", "'none'"]),
    (f"{PPO} --gamma 1.5", ["--gamma must lie in [0, 1]", "1.5"]),
    (f"{PPO} --gae-lambda -0.1", ["--gae-lambda must lie in [0, 1]"]),
    (f"{PPO} --clip-eps 0", ["--clip-eps must lie in (0, inf)"]),
    (f"{PPO} --max-grad-norm -inf", ["--max-grad-norm must be a finite number"]),
    (f"{PPO} --num-envs 0", ["--num-envs must lie in [1, inf)"]),
    (f"{PPO} --num-envs 0.5", ["--num-envs must be a whole number"]),
    (f"{PPO} --rollout-length -128", ["--rollout-length must lie in"]),
    (f"{PPO} --total-steps 0", ["--total-steps must lie in"]),
    (f"{PPO} --eval-episodes 0", ["--eval-episodes must lie in"]),
    (f"{PPO} --checkpoint-every 0", ["--checkpoint-every must lie in"]),
    (f"{PPO} --processes 0", ["--processes must be a whole number in [1, inf) or auto, got '0'"]),
    (f"{PPO} --processes many", ["--processes", "auto", "'many'"]),
    # combinations
    (f"{PPO} --seeds 2 --processes 3", ["--processes must be at most the number of members, here 2, got 3"]),
    (f"{PPO} --num-envs 3 --rollout-length 5 --num-minibatches 4", ["15", "num_minibatches"]),
    (f"{PPO} --total-steps 100", ["--total-steps must be at least one iteration of 512"]),
    (f"{PPO} --total-steps 9e15", ["--total-steps must be less than"]),
    (f"{PPO} --clip-eps none", ["clip_eps", "kl_target"]),
    (f"{PPO} --log-every 7 --checkpoint-every 10", ["--checkpoint-every must be a multiple of --log-every", "7"]),
    (f"{PPO} --log-every 4 --eval-every 6", ["--eval-every must be a multiple of --log-every"]),
    # networks
    (f"{PPO} --trunk rnn", ["unknown --trunk value 'rnn'", "cnn"]),
    (f"{PPO} --activation rellu", ["'relu'"]),
    (f"{PPO} --hidden-sizes 64 x", ["--hidden-sizes must be a whole number", "'x'"]),
    (f"{PPO} --hidden-sizes 64 -64", ["--hidden-sizes must lie in [1, inf)"]),
    (f"{PPO} --channels 16", ["--channels is not for --trunk mlp"]),
    (f"{PPO} --trunk cnn", ["CNN needs observations [height, width, channels]"]),
    ("train ppo Breakout-MinAtar --trunk cnn --kernel 3", ["kernel must be a height and a width"]),
    (f"{PPO} --squash", ["squash is for continuous actions"]),
    (f"{PPO} --dueling", ["unknown flag '--dueling'"]),
    (f"{PPO} --head c51", ["unknown flag '--head'"]),
    (f"{DQN} --shared", ["unknown flag '--shared'"]),
    (f"{DQN} --duelling", ["unknown flag '--duelling'", "'--dueling'"]),
    (f"{DQN} --head c52", ["unknown --head value 'c52'", "'c51'"]),
    (f"{DQN} --num-atoms 51", ["--num-atoms is not for --head mean, which has --huber-delta"]),
    (f"{DQN} --head c51 --num-quantiles 9", ["--num-quantiles is not for --head c51", "--v-min"]),
    ("train rainbow CartPole-v1 --huber-delta 1", ["--huber-delta is not for --head c51"]),
    (f"{DQN} --head c51 --num-atoms 1", ["--num-atoms must lie in [2, inf)", "got 1"]),
    (f"{DQN} --head c51 --v-min 5 --v-max -5", ["v_min must be less than v_max", "5.0", "-5.0"]),
    (f"{DQN} --head c51 --v-max inf", ["--v-max must be a finite number"]),
    (f"{DQN} --head quantile --huber-kappa 0", ["--huber-kappa must lie in (0, inf)"]),
    (f"{DQN} --huber-delta -1", ["--huber-delta must lie in (0, inf)"]),
    (f"{DQN} --channels 16", ["--channels is not for --trunk mlp"]),
    ("train td3 Pendulum-v1 --num-critics 0", ["--num-critics must lie in [1, inf)"]),
    # what the agent sees
    (f"{PPO} --env.keep 4", ["keep must be different indices from 0 to 3, got [4]"]),
    (f"{PPO} --env.keep x", ["keep must be different indices", "x"]),
    (f"{PPO} --env.frame-stack 0", ["frame_stack must lie in [1, inf)"]),
    ("train ppo FrozenLake-misc --env.frame-stack 2", ["only observations that are arrays can be stacked"]),
    # learning from a replay
    (f"{DQN} --total-steps 10000", ["--total-steps", "warmup_steps = 10,000", "got 10,000"]),
    (f"{DQN} --total-steps 400", ["--total-steps", "warmup_steps = 10,000", "got 400"]),
    ("train sac Pendulum-v1 --warmup-steps 20000", ["--total-steps", "warmup_steps = 20,000"]),
    (f"{DQN} --warmup-steps 15", ["warmup_steps must be a multiple of", "10", "the nearest is 20"]),
    (f"{DQN} --warmup-steps 0", ["--warmup-steps must lie in [1, inf)"]),
    (f"{DQN} --buffer-size 10001", ["10,001", "the nearest is 10,000 or 10,010"]),
    (f"{DQN} --buffer-size 3e9", ["--buffer-size must lie in [1, 2147483647]"]),
    (f"{DQN} --batch-size 0", ["--batch-size must lie in [1, inf)"]),
    (f"{DQN} --n-step 0.5", ["--n-step must be a whole number"]),
    (f"{DQN} --tau 0", ["--tau must lie in (0, 1]"]),
    (f"{DQN} --target-period 0", ["--target-period must lie in [1, inf)"]),
    (f"{DQN} --epsilon 1.1", ["--epsilon must lie in [0, 1]"]),
    (f"{DQN} --epsilon linear:1:1.1", ["--epsilon must lie in [0, 1], got 1.1"]),
    (f"{DQN} --epsilon linaer:1:0", ["unknown schedule in --epsilon 'linaer'", "'linear'"]),
    (f"{DQN} --epsilon linear:1", ["--epsilon must look like linear:START:END", "got 'linear:1'"]),
    (f"{DQN} --epsilon linear:1:a", ["--epsilon must be made of finite numbers, got 'a'"]),
    (f"{DQN} --epsilon linear:1:0:0%", ["steps of --epsilon must lie in (0, inf)"]),
    (f"{DQN} --batch-size linear:1:2", ["--batch-size must be a whole number"]),
    (f"{DQN} --optimizer adan", ["unknown --optimizer value 'adan'", "'adam'"]),
    (f"{DQN} --vary b1=0.8,0.9", ["cannot differ"]),
    (f"{DQN} --vary weight-decay=0.1,0.2", ["--vary weight-decay is for --optimizer adamw, not for adam"]),
    (f"{DQN} --vary tau.end=0.1,0.2", ["'tau.end': there is no 'end' of 1.0, which is a number and no schedule"]),
    (f"{DQN} --vary epsilon=0.1,0.2 --vary epsilon.end=0.1,0.2", ["give either --vary epsilon or --vary epsilon.end"]),
    (f"{DQN} --priority-exponent -1", ["--priority-exponent must lie in [0, inf)"]),
    (f"{DQN} --gae-lambda 0.9", ["unknown flag '--gae-lambda'"]),
    (f"{DQN} --vary epsilon=0.1,2", ["--vary epsilon must lie in [0, 1]"]),
    ("train td3 Pendulum-v1 --noise-std -0.1", ["--noise-std must lie in [0, inf)"]),
    ("train sac Pendulum-v1 --target-entropy nan", ["--target-entropy must be a finite number"]),
    # algorithms on spaces that they are not for
    ("train dqn Pendulum-v1", ["needs discrete actions", "Box", "sac"]),
    ("train rainbow brax/fast", ["needs discrete actions"]),
    ("train discrete_sac Pendulum-v1", ["discrete_sac needs discrete actions"]),
    ("train sac CartPole-v1", ["sac needs bounded continuous actions", "Discrete(2)", "discrete_sac"]),
    ("train td3 Breakout-MinAtar", ["td3 needs bounded continuous actions"]),
    ("train ddpg MountainCar-v0", ["ddpg needs bounded continuous actions"]),
    # environments
    (f"{PPO} --env.backend spring", ["unknown flag '--env.backend'"]),
    (f"{PPO} --env.gravity heavy", ["--env.gravity must be a finite number"]),
    (f"{PPO} --env.episode-length 0", ["episode_length must lie in [1, inf)"]),
    ("train ppo brax/fast --env.obs-mode picture", ["obs", "mode", "ndarray", "'picture'"]),
    ("train ppo brax/inverted_pendulum --env.backend sprnig", ["backend", "spring"]),
    # populations
    (f"{PPO} --vary learning-rate", ["--vary must look like"]),
    (f"{PPO} --vary learning-rat=1,2", ["'learning-rate'"]),
    (f"{PPO} --vary learning-rate=1e-3,x", ["--vary learning-rate must be a finite number", "'x'"]),
    (f"{PPO} --vary gamma=0.9,1.1", ["--vary gamma must lie in [0, 1]"]),
    (f"{PPO} --vary gamma=0.9,0.9", ["names a value twice"]),
    (f"{PPO} --vary gamma=0.9 --vary gamma=0.8", ["given twice"]),
    (f"{PPO} --vary gamma=0.9,0.8 --gamma 0.7", ["not both"]),
    (f"{PPO} --vary env.params.gravitee=9,10", ["gravity"]),
    (f"{PPO} --randomize params.length", ["--randomize must look like params.gravity=8:12", "'params.length'"]),
    (f"{PPO} --randomize params.length=0.5", ["--randomize must look like"]),
    (f"{PPO} --randomize params.length=0.5:inf", ["--randomize must look like"]),
    (f"{PPO} --randomize params.length=1:0.5", ["'params.length' must go from a number to a greater one"]),
    (f"{PPO} --randomize params.lenth=0.5:1", ["unknown entry", "'length'"]),
    (f"{PPO} --randomize env.params.length=0.5:1", ["leave out 'env.'"]),
    (f"{PPO} --randomize params.total_mass=0.5:1", ["total_mass", "follows from masscart and masspole"]),
    (f"{PPO} --randomize params.max_steps_in_episode=9:20.5", ["must be a whole number"]),
    (f"{PPO} --randomize params.max_steps_in_episode=0:20", ["max_steps_in_episode", "must lie in [1, inf)"]),
    (f"{PPO} --randomize params.length=0.5:1 --randomize params.length=1:2", ["given twice"]),
    (f"{PPO} --randomize params.length=0.5:1 --vary env.params.length=1,2", ["not both"]),
    ("train ppo Acrobot-v1 --randomize params.link_length_2=1:2", ["changes nothing", "params.link_length_1 does act"]),
    ("train ppo Acrobot-v1 --randomize params.available_torque=1:2", ["single number", "shape (3,)"]),
    # run directories
    (f"{PPO} --out {{tmp}}/run", ["already holds a run", "--overwrite"]),
    (f"{PPO} --out {{tmp}}/foreign", ["not a purerl run"]),
    (f"{PPO} --out {{tmp}}/foreign --overwrite", ["not a purerl run"]),
    (f"{PPO} --out {{tmp}}/file", ["it is a file"]),
    (f"{PPO} --out {{tmp}}/file/deeper", ["cannot write a run"]),
    (f"{PPO} --out /proc/purerl", ["cannot write a run to /proc/purerl"]),
    # resuming
    ("train --resume {tmp}/nothing", ["no run in", "no such directory"]),
    ("train --resume {tmp}/foreign", ["no config.json"]),
    ("train --resume {tmp}/file", ["it is a file"]),
    ("train --resume {tmp}/damaged", ["cannot read", "config.json"]),
    ("train --resume {tmp}/future", ["cannot use", "format"]),
    ("evaluate {tmp}/older", ["written by another version of purerl, in format 2, and this one reads format"]),
    ("train --resume {tmp}/incomplete", ["'seeds' is missing"]),
    ("train --resume {tmp}/renamed", ["unknown hyper-parameter of ppo 'gama'", "'gamma'"]),
    ("train --resume {tmp}/illegal", ["gamma must lie in [0, 1]"]),
    ("train --resume {tmp}/run --gamma 0.9", ["unknown flag '--gamma'"]),
    ("train --resume {tmp}/run --seeds 3", ["--seeds cannot be changed when resuming"]),
    ("train --resume {tmp}/run --total-steps 4096", ["annealed"]),
    (f"{PPO} --resume {{tmp}}/run", ["leave out ppo CartPole-v1"]),
    ("train --resume", ["--resume", "expected one argument"]),
    # evaluating and plotting
    ("evaluate", ["name one run directory"]),
    ("evaluate {tmp}/run {tmp}/run", ["name one run directory"]),
    ("evaluate {tmp}/nothing", ["no run in"]),
    ("evaluate {tmp}/run", ["no checkpoint yet"]),
    ("evaluate {tmp}/run --episodes 0", ["--episodes must lie in"]),
    ("evaluate {tmp}/run --episodes 3000000000", ["--episodes must lie in"]),
    ("evaluate {tmp}/run --epsodes 3", ["'--episodes'"]),
    ("transfer --shift params.length=1:2:3", ["name a run directory"]),
    ("transfer {tmp}/nothing --shift params.length=1:2:3", ["no run in"]),
    ("transfer {tmp}/run", ["say what to shift", "--shift params.length=0.25:2:8"]),
    ("transfer {tmp}/run --shift params.length=1:2", ["--shift must look like params.length=0.25:2:8"]),
    ("transfer {tmp}/run --shift params.length=2:1:3", ["from a number to a greater one in 2 to 1000 values"]),
    ("transfer {tmp}/run --shift params.length=1:2:1", ["2 to 1000 values"]),
    ("transfer {tmp}/run --shift params.lenth=1:2:3", ["unknown entry", "'length'"]),
    ("transfer {tmp}/run --shift lenth=1:2:3", ["unknown option of CartPole-v1 in --shift", "'length'"]),
    ("transfer {tmp}/run --shift params.total_mass=1:2:3", ["follows from masscart and masspole"]),
    ("transfer {tmp}/run --shift frame_stack=1:2:2", ["--shift frame_stack", "Box([4]", "cannot act on Box([8]"]),
    ("transfer {tmp}/run --shift differentiable=0:1:2", ["differentiable: it is no number"]),
    ("transfer {tmp}/run --shift params.length=1:2:3 --out t.pdf", [".png"]),
    ("transfer {tmp}/run --shift params.length=1:2:3 --out no/t.png", ["there is no directory no"]),
    ("transfer {tmp}/run --shift params.length=1:2:3", ["no checkpoint yet"]),
    ("transfer {tmp}/varied --shift params.length=1:2:3", ["--vary env.", "environments of their own"]),
    ("plot", ["name a run directory"]),
    ("plot {tmp}/nothing", ["no run in"]),
    ("plot {tmp}/run", ["no metrics yet"]),
    ("plot {tmp}/run --out curve.pdf", [".png"]),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has not begun, and directories in various states of disrepair."""
    tmp = tmp_path_factory.mktemp("bad")
    config, _, _ = configure.configure("ppo", "CartPole-v1", ["--total-steps", "2048"])
    with RunDirectory.begin(config, tmp / "run"):
        pass
    good = config.to_json()
    hyperparameters = good["hyperparameters"]
    renamed = {name.replace("gamma", "gama"): value for name, value in hyperparameters.items()}
    variants = {
        "future": {**good, "purerl_run": 99},
        "older": {"purerl_run": 2, "algorithm": "ppo"},
        "incomplete": {name: value for name, value in good.items() if name != "seeds"},
        "renamed": {**good, "hyperparameters": renamed},
        "varied": {**good, "vary": {"env.params.length": [1.0, 2.0]}},
        "illegal": {**good, "hyperparameters": {**hyperparameters, "gamma": 2.0}},
    }
    for name, data in variants.items():
        (tmp / name).mkdir()
        (tmp / name / "config.json").write_text(json.dumps(data))
    (tmp / "damaged").mkdir()
    (tmp / "damaged" / "config.json").write_text('{"purerl_run": 1, "algo')
    (tmp / "foreign").mkdir()
    (tmp / "foreign" / "thesis.txt").write_text("years of work")
    (tmp / "file").write_text("not a directory")
    return tmp


def snapshot(folder: Path) -> dict[str, bytes]:
    # The lock is taken before a run is read; it has no content.
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 40
    assert len({typed for typed, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(("typed", "expected"), CASES, ids=[typed for typed, _ in CASES])
def test_one_line_and_exit_code_2(
    typed: str,
    expected: list[str],
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(*args: object) -> None:
        raise AssertionError("got as far as compiling")

    monkeypatch.setattr(loop, "advance", compiled)
    monkeypatch.chdir(tmp_path)
    before = snapshot(files)
    code = main(typed.format(tmp=files).split())
    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith("purerl: error: ")
    assert err.count("\n") == 1
    for words in expected:
        assert words in err
    assert out == ""
    assert snapshot(files) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "words"),
    [("train ppo CartPole-v1 --gama 1", "--gamma"), ("trian", "'train'"), ("evaluate /no/such/run", "no run in")],
)
def test_the_same_from_a_shell(typed: str, words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "purerl", *typed.split()], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
