"""The libraries that purerl is measured beside, each in a virtual environment of its own, made on first use."""

import importlib.metadata
import subprocess
import venv
from pathlib import Path

FOLDER = Path(__file__).parent.parent / ".cache" / "peers"
PACKAGES = {
    "rejax": ["rejax==0.1.3", "gymnax==0.0.9", "six"],  # rejax needs this gymnax, which does not declare six
    "flashbax": ["flashbax==0.1.3"],
}


def peer_python(name: str) -> Path:
    """The interpreter of the environment of `name`, with the same JAX as here."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {name} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
        packages = [*PACKAGES[name], f"jax=={importlib.metadata.version('jax')}"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def versions() -> dict[str, str]:
    """Of the peers, as they are installed."""
    return {name: packages[0].split("==")[1] for name, packages in PACKAGES.items()}
