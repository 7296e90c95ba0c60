"""The charts of `results/*.json`, beside them: what the README and docs/scale.md show.

python benchmarks/charts.py
python benchmarks/charts.py --format png --to some/directory
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("agg")  # draws to files, and needs no screen

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
OURS, OTHER, THIRD = "#1f6f8b", "#9aa2aa", "#d08c3c"
LABELS = {
    "2012": "precip 0.3 (2012)",
    "ssh-xargs": "ssh by xargs",
    "ssh-mux": "ssh by xargs, masters",
    "precip_async-public": "precip_async, ssh_fast=False",
    "precip_async-workers": "precip_async, 2 workers",
}
STYLE = {
    "axes.edgecolor": "#888888",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: small, and it can be searched
    "svg.hashsalt": "precip_async",  # the same figures make the same file
}

Results = dict[str, dict[str, Any]]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--format", default="svg", choices=["svg", "png"])
    parser.add_argument("--to", type=Path, default=RESULTS, help="a directory")
    given = parser.parse_args()
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    for name, (needed, draw) in CHARTS.items():
        if all(one in results for one in needed):
            with plt.rc_context(STYLE):
                figure = draw(results)
                figure.savefig(
                    given.to / f"{name}.{given.format}",
                    dpi=120,
                    metadata={"Date": None} if given.format == "svg" else None,
                )
                plt.close(figure)


def fan_out(results: Results) -> Figure:
    """CPU of every client, cold and warm, as bars."""
    document = results["fan_out-50"]
    medians = document["medians"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.9), sharey=True, layout="constrained")
    order = sorted(medians, key=lambda one: -medians[one]["warm_cpu_ms"])
    titles = {
        "cold_cpu_ms": "the first command, connecting included",
        "warm_cpu_ms": "the next command",
    }
    for axes, (figure_name, title) in zip(panels, titles.items(), strict=True):
        values = [medians[one][figure_name] for one in order]
        rows = range(len(order))
        colours = [OURS if one.startswith("precip_async") else OTHER for one in order]
        axes.hlines(rows, min(values) / 2, values, color="#eeeeee", zorder=1)
        axes.scatter(values, rows, color=colours, zorder=2)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(f"{value:.2g}", (value, row), (7, -3), textcoords="offset points")
        axes.set_yticks(rows, [LABELS.get(one, one) for one in order])
        axes.set(xscale="log", title=title, xlabel="ms of client CPU for each host (log scale)")
        axes.set_xlim(min(values) / 2, 3 * max(values))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="y", length=0)
    hosts, machine = document["settings"]["hosts"], document["machine"]
    figure.suptitle(
        f"“echo hi” on {hosts} hosts at once: what it costs the client "
        f"({machine['cores']} cores, Python {machine['python']})",
        fontsize=11,
    )
    return figure


def growth(results: Results) -> Figure:
    """What one host costs in ever larger fleets: CPU and memory."""
    medians = results["growth"]["medians"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    phases = {
        "wait_cpu_ms": ("provision and wait", OURS),
        "run_cpu_ms": ("run", THIRD),
        "close_cpu_ms": ("close", "#777777"),
    }
    for name, (label, colour) in phases.items():
        points = _by_size(medians, "silent", name)
        _line(left, points, color=colour)
        size = min(points)
        left.annotate(label, (size, points[size]), (0, 6), textcoords="offset points", color=colour)
    left.set(title="ms of client CPU for each host")
    _line(right, _by_size(medians, "silent", "kib_a_host"), color=OURS)
    right.set(title="KiB of memory for each connected host")
    for axes in (left, right):
        _by_hosts(axes)
    return figure


def peers(results: Results) -> Figure:
    """What one host costs us and the libraries that keep connections, as fleets grow."""
    found = {name: one for name, one in results.items() if name.startswith("fan_out-")}
    figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    titles = {
        "cold_cpu_ms": "first command, ms of CPU a host",
        "warm_cpu_ms": "next command, ms of CPU a host",
        "rss_peak_mb": "memory of the client, MiB",
    }
    clients = {"precip_async": OURS, "parallel-ssh": THIRD, "asyncssh": "#777777"}
    for axes, (figure_name, title) in zip(panels, titles.items(), strict=True):
        for client, colour in clients.items():
            points = {
                one["settings"]["hosts"]: one["medians"][client][figure_name]
                for one in found.values()
                if client in one["medians"]
            }
            _line(axes, points, label=client, color=colour)
        axes.set(title=title)
        _by_hosts(axes)
    panels[2].legend(frameon=False, loc="lower right")
    return figure


def _by_size(medians: dict[str, Any], variant: str, figure_name: str) -> dict[int, float]:
    """The figure of each size of fleet."""
    return {
        int(one.split()[1]): figures[figure_name]
        for one, figures in medians.items()
        if one.split()[0] == variant
    }


def _line(axes: Axes, points: dict[int, float], **look: str) -> None:
    sizes = sorted(points)
    axes.plot(sizes, [points[size] for size in sizes], marker="o", markersize=4, **look)


def _by_hosts(axes: Axes) -> None:
    axes.set_xscale("log")
    sizes = sorted({int(size) for line in axes.get_lines() for size in line.get_xdata()})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
    axes.set_xlabel("hosts")
    axes.grid(axis="y", color="#eeeeee")


# By the chart's name: the results that it needs, and what draws it.
CHARTS: dict[str, tuple[tuple[str, ...], Callable[[Results], Figure]]] = {
    "fan_out": (("fan_out-50",), fan_out),
    "growth": (("growth",), growth),
    "peers": (("fan_out-50", "fan_out-200", "fan_out-1000"), peers),
}

if __name__ == "__main__":
    main()
