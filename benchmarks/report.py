"""What was measured, as JSON, as a Markdown table and as a picture."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.jobs import FLOORS, JOBS, OURS
from purerl.cpu import usable_cores


def machine() -> dict[str, Any]:
    """On what and with which versions."""
    names = ("jax", "jaxlib", "flax", "optax", "gymnax", "brax")
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "NPROC": os.environ.get("NPROC"),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "peers": peers.versions(),
    }


def load(path: Path) -> dict[str, Any]:
    """Earlier measurements of the same machine and versions, to which new ones are added; else none."""
    nothing = {"machine": machine(), "jobs": {}}
    if not path.exists():
        return nothing
    earlier = json.loads(path.read_text())
    return earlier if earlier["machine"] == nothing["machine"] else nothing


def write(path: Path, results: Mapping[str, Any]) -> None:
    """``path`` (JSON), and beside it a table and a picture of the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [job.name for job in JOBS]
    jobs = dict(sorted(results["jobs"].items(), key=lambda item: order.index(item[0])))
    _replace(path, json.dumps({**results, "jobs": jobs}, indent=1) + "\n")
    _replace(path.with_suffix(".md"), table(jobs))
    draw(path.with_suffix(".png"), jobs)


def table(jobs: Mapping[str, Any]) -> str:
    """One row per contestant; for purerl the share of its time that the floors make up."""
    lines = [
        "| job | | steps/s | purerl is faster by | from, to | compiling, s | peak memory, MB | return |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for job in jobs.values():
        title = job["title"]
        for name, row in job["contestants"].items():
            lines.append(f"| {title} | {' | '.join(_cells(job, name, row))} |")
            title = ""
    return "\n".join(lines) + "\n"


def _cells(job: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> list[str]:
    if "median" not in row:
        return [name, f"failed: {row.get('error', '')}", "", "", "", "", ""]
    median, ratios = row["median"], row["ratios"]
    speed = f"{median['run_seconds']:.1f} s" if job["by_seconds"] else f"{median['steps_per_second']:,.0f}"
    ratio = spread = ""
    if name in FLOORS and ratios:
        ratio, spread = f"{row['ratio']:.0%} of its time", f"{min(ratios):.0%}, {max(ratios):.0%}"
    elif name not in OURS and ratios:
        ratio, spread = f"**{row['ratio']:.2f}**", f"{min(ratios):.2f}, {max(ratios):.2f}"
    final = median["final_return"]
    return [
        name + (" (failed later)" if "error" in row else ""),
        speed,
        ratio,
        spread,
        f"{median['compile_seconds']:.1f}",
        f"{median['peak_megabytes']:,.0f}",
        "" if final is None else f"{final:.1f}",
    ]


def draw(path: Path, jobs: Mapping[str, Any]) -> None:
    """A bar for every peer of every job: how many times as fast purerl is, with the range over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (job["title"], name, row["ratio"], min(row["ratios"]), max(row["ratios"]))
        for job in jobs.values()
        for name, row in job["contestants"].items()
        if name not in (*OURS, *FLOORS) and row["ratios"]
    ]
    if not bars:
        return
    names = list(dict.fromkeys(bar[1] for bar in bars))
    # Jobs are separated by one empty line.
    places, labels, place, last = [], [], 0, bars[0][0]
    for title, name, *_ in bars:
        place += 2 if title != last else 1
        last = title
        places.append(-place)
        labels.append(f"{title}: {name}")
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.2 * place), layout="constrained")
    # From 1 on: to the left purerl is slower.
    axes.barh(places, [bar[2] - 1.0 for bar in bars], left=1.0, color=[f"C{names.index(bar[1])}" for bar in bars])
    axes.hlines(places, [bar[3] for bar in bars], [bar[4] for bar in bars], color="black", linewidth=1)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(places, labels, fontsize=7)
    axes.margins(y=0.01)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("times as fast as the peer: median and range of rounds")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _processor() -> str:
    """Its name, on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, for whoever interrupts."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(text)
    scratch.replace(path)
