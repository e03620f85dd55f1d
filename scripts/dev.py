"""Set up purerl in a virtual environment of its own and do one thing with it. Needs Python 3.11 to 3.13, nothing else.

usage: python3 scripts/dev.py demo     train PPO on CartPole with 8 seeds, end with a learning curve and an evaluation
       python3 scripts/dev.py test     lint, type-check and test; further arguments go to pytest
       python3 scripts/dev.py test --fast   the same in less than three minutes: tests of the core alone
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(os.environ.get("PURERL_VENV", ROOT / ".venv"))
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


# What other code rests on, errors that users see, and one algorithm with a replay and one without.
FAST = [
    "tests/test_deferred_imports.py",
    "tests/test_minibatches.py",
    "tests/test_running_statistics.py",
    "tests/test_optimizers.py",
    "tests/test_preprocessing.py",
    "tests/test_q_networks.py",
    "tests/test_returns.py",
    "tests/test_rollout.py",
    "tests/test_schedules.py",
    "tests/test_spaces.py",
    "tests/test_statistics.py",
    "tests/test_struct.py",
    "tests/test_sum_tree.py",
    "tests/test_table.py",
    "tests/test_value_heads.py",
    "tests/test_value_regression.py",
    "tests/cli/test_help.py",
    "tests/cli/test_run_directory.py",
    "tests/environments/test_check_env.py",
    "tests/test_contract.py::test_state_keeps_its_types",
    "tests/test_contract.py::test_metrics_are_finite_means_with_constant_names[a2c]",
    "tests/test_contract.py::test_save_restore_continue_is_bit_equal[a2c]",
    "tests/test_contract.py::test_metrics_are_finite_means_with_constant_names[td3]",
    "tests/test_contract.py::test_save_restore_continue_is_bit_equal[td3]",
]


def set_up() -> None:
    """Create the environment and install purerl into it, unless that has been done for this pyproject.toml."""
    wanted = (ROOT / "pyproject.toml").read_text()
    done = ENVIRONMENT / "installed-for"
    if done.exists() and done.read_text() == wanted:
        return
    print(f"setting up {ENVIRONMENT} (a few minutes, once)", flush=True)
    try:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        sys.exit("this Python cannot create virtual environments; on Debian and Ubuntu install python3-venv")
    subprocess.run([BIN / "python", "-m", "pip", "install", "-q", "-e", f"{ROOT}[test]"], check=True)
    done.write_text(wanted)


def demo() -> int:
    """Train, evaluate, plot."""
    command = "train ppo CartPole-v1 --seeds 8 --seed 0 --total-steps 500000 --out runs/cartpole --overwrite"
    return subprocess.run([BIN / "purerl", *command.split()], cwd=ROOT).returncode


def test(arguments: list[str]) -> int:
    """Everything that must hold before a change lands, or the part that takes a moment."""
    if "--fast" in arguments:
        arguments = [*FAST, *(argument for argument in arguments if argument != "--fast")]
    commands = [
        [BIN / "ruff", "check"],
        [BIN / "ruff", "format", "--check"],
        [BIN / "pyright", "--pythonpath", BIN / "python"],
        [BIN / "pytest", "-q", "-n", "2", "--dist", "loadgroup", *arguments],
    ]
    for command in commands:
        print("$", Path(command[0]).name, *command[1:], flush=True)
        if code := subprocess.run(command, cwd=ROOT).returncode:
            return code
    return 0


def main() -> int:
    """Dispatch."""
    match sys.argv[1:]:
        case ["demo"]:
            set_up()
            return demo()
        case ["test", *arguments]:
            set_up()
            return test(arguments)
    print(__doc__)
    return 2


if __name__ == "__main__":
    if not (3, 11) <= sys.version_info < (3, 14):
        sys.exit(f"purerl needs Python 3.11 to 3.13, this is {sys.version.split()[0]}")
    sys.exit(main())
