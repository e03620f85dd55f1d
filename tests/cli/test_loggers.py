"""Every logger keeps to the protocol."""

from pathlib import Path

import pytest

from purerl.cli import flags
from purerl.cli.loggers import LOGGERS, load
from purerl.cli.loggers.tensorboard import Logger as TensorBoard
from purerl.errors import InputError

POINTS = [[{"iteration": i, "env_steps": 8 * i, "member": m, "loss": 0.5, "x": None} for m in (0, 1)] for i in (1, 2)]


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_writes_to_its_folder_and_has_a_flag(name: str, tmp_path: Path) -> None:
    load(name).check()
    logger = load(name)(tmp_path / name, 2, [])
    logger.write(POINTS[0])
    logger.close()
    again = load(name)(tmp_path / name, 2, POINTS[0])
    again.write(POINTS[1])
    again.close()
    assert any(path.is_file() for path in (tmp_path / name).rglob("*"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert any(flag.name == name and flag.kind == "bool" for flag in flags.RUN.flags)


def test_a_missing_package_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--tensorboard needs the package tensorboardX"):
        TensorBoard.check()
