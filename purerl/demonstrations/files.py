"""The file format of demonstrations: one compressed ``.npz`` archive of NumPy, without pickled objects.

``header`` is a text of JSON with the keys ``purerl_demonstrations`` (version of the format, 1), ``env``,
``env_options``, ``source``, ``observation_space``, ``action_space``, ``rows``, ``lengths`` and ``returns`` (one entry
per episode each). Beside it are the arrays of `Demonstrations`: ``obs``, ``action``, ``reward``, ``terminated``,
``truncated``, ``next_obs`` and ``starts``. A space is ``{"kind": "Discrete", "n": 2}`` or ``{"kind": "Box", "shape":
[4], "low": "-inf", "high": [1.0, 2.0, 1.0, 2.0], "dtype": "float32"}``; infinite bounds are text.
"""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from purerl.demonstrations.data import ROWS, Demonstrations, on_host
from purerl.errors import InputError
from purerl.spaces import Box, Discrete, Space

FORMAT = 1
"""Raised when older files can no longer be read."""

_ARRAYS = (*ROWS, "starts")


def save(demonstrations: Demonstrations, path: str | Path) -> None:
    """See `Demonstrations.save`."""
    demonstrations = on_host(demonstrations)
    demonstrations.check()
    header = {
        "purerl_demonstrations": FORMAT,
        "env": demonstrations.env,
        "env_options": json.loads(demonstrations.env_options),
        "source": demonstrations.source,
        "observation_space": _space_to_json(demonstrations.observation_space),
        "action_space": _space_to_json(demonstrations.action_space),
        "rows": demonstrations.num_rows,
        "lengths": demonstrations.lengths.tolist(),
        "returns": demonstrations.returns.tolist(),
    }
    content = io.BytesIO()
    arrays = {name: getattr(demonstrations, name) for name in _ARRAYS}
    np.savez_compressed(content, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content.getvalue())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def load_demonstrations(path: str | Path) -> Demonstrations:
    """Read a file of demonstrations and check all of it.

    Raises:
        InputError: if there is no such file, it is something else, of another version, damaged or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no demonstrations in {path}: there is no such file; purerl record writes one")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or "header" not in archive:
                raise InputError(f"{path} is not a file of demonstrations: it has no header")
            header = json.loads(str(archive["header"]))
            version = header.get("purerl_demonstrations") if isinstance(header, dict) else None
            if version is None:
                raise InputError(f"{path} is not a file of demonstrations: its header is of something else")
            if version != FORMAT:
                raise InputError(f"{path} has format {version} of another version of purerl, this one reads {FORMAT}")
            demonstrations = Demonstrations(
                **{name: archive[name] for name in _ARRAYS},
                observation_space=_space_from_json(header["observation_space"]),
                action_space=_space_from_json(header["action_space"]),
                env=header["env"],
                env_options=json.dumps(header["env_options"], sort_keys=True),
                source=header["source"],
            )
            rows, returns = header["rows"], np.asarray(header["returns"], np.float32)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # Damaged and foreign files surface from inside NumPy, zipfile and zlib as all kinds of exceptions.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is not a file of demonstrations, or damaged: {reason}") from error
    try:
        demonstrations.check()
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if demonstrations.num_rows != rows or not np.allclose(demonstrations.returns, returns, rtol=1e-5, atol=1e-5):
        raise InputError(f"{path} is damaged: its arrays are not those that its header describes")
    return demonstrations


def _space_to_json(space: Space) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": space.n}
    low, high = (_bound_to_json(bound) for bound in (space.low, space.high))
    return {"kind": "Box", "shape": list(space.shape), "low": low, "high": high, "dtype": np.dtype(space.dtype).name}


def _bound_to_json(bound: Any) -> Any:
    if isinstance(bound, tuple):
        return [_bound_to_json(one) for one in bound]
    return bound if math.isfinite(bound) else str(bound)


def _space_from_json(data: Any) -> Space:
    if data["kind"] == "Discrete":
        return Discrete(data["n"])
    low, high = (_bound_from_json(data[name]) for name in ("low", "high"))
    return Box(tuple(data["shape"]), low, high, np.dtype(data["dtype"]))


def _bound_from_json(bound: Any) -> Any:
    return tuple(map(float, bound)) if isinstance(bound, list) else float(bound)
