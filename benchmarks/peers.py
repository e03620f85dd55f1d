"""The libraries that purerl is measured beside, each in a virtual environment of its own, made on first use."""

import importlib.metadata
import subprocess
import venv
from pathlib import Path

FOLDER = Path(__file__).parent.parent / ".cache" / "peers"
JAX = f"jax=={importlib.metadata.version('jax')}"
# Without "+cpu" pip would also fetch gigabytes of libraries for GPUs. PyPI lacks these builds: name PyTorch's own index
# of packages for CPUs in PIP_EXTRA_INDEX_URL.
TORCH = "torch==2.13.0+cpu"
PACKAGES = {
    "rejax": ["rejax==0.1.3", "gymnax==0.0.9", "six", JAX],  # rejax needs this gymnax, which does not declare six
    "flashbax": ["flashbax==0.1.3", JAX],
    "sb3": ["stable-baselines3==2.9.0", TORCH],
    "sbx": ["sbx-rl==0.28.0", "stable-baselines3==2.9.0", TORCH, JAX],
}


def peer_python(name: str) -> Path:
    """The interpreter of the environment of `name`, with the same JAX as here if it uses any.

    Raises:
        subprocess.CalledProcessError: its packages cannot be installed; pip says why on standard error.
    """
    folder = FOLDER / name
    python, finished = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join(PACKAGES[name])
    if not finished.exists() or finished.read_text() != wanted:
        print(f"installing {name} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
        finished.write_text(wanted)  # only now: an interrupted installation is begun again
    return python


def versions() -> dict[str, str]:
    """Of all that is pinned for the peers."""
    pinned = [package for packages in PACKAGES.values() for package in packages if "==" in package]
    return dict(sorted(package.split("==") for package in pinned))
