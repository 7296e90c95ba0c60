"""What benchmarks share: phases measured in a process, samples in fresh ones, and the account.

CPU is what is compared. Client and server share this machine, so that wall time says as much of
the server as of the client.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Figures",
    "Meter",
    "Sample",
    "account",
    "adopt",
    "end_adopted",
    "interleaved",
    "machine",
    "memory",
    "table",
]

SAMPLE_TIMEOUT = 600.0  # seconds: a client that hangs is a result too
CPU_MODEL = Path("/proc/cpuinfo")
TICKS = os.sysconf("SC_CLK_TCK")  # a second, of the CPU time that /proc shows
CHILD_SUBREAPER = 36  # prctl's, from linux/prctl.h

LOAD = os.getloadavg()[0]  # what the machine was busy with before we added to it

Figures = dict[str, float]


class Meter:
    """Figures of this process, phase by phase."""

    def __init__(self) -> None:
        self.figures: Figures = {}
        self._peak = 0.0  # MiB, before it was last made to begin anew

    @contextlib.contextmanager
    def phase(self, name: str, *, per: int) -> Iterator[None]:
        """Measure a block that does `per` like things.

        `<name>_cpu_ms`: user and system time of this process and of its descendants, for each.
        `<name>_wall_s`: seconds, for the block.
        """
        cpu, wall = _cpu(), time.perf_counter()
        yield
        self.figures[f"{name}_cpu_ms"] = (_cpu() - cpu) * 1000 / per
        self.figures[f"{name}_wall_s"] = time.perf_counter() - wall

    @contextlib.contextmanager
    def growth(self, name: str) -> Iterator[None]:
        """Measure by how much the memory of this process grows within a block, at its peak.

        `<name>_growth_mb`: MiB of resident memory above what was resident before.
        """
        before, self._peak = memory("VmRSS"), max(self._peak, memory("VmHWM"))
        with contextlib.suppress(OSError):  # where that is forbidden, the peak may be an older one
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        yield
        self.figures[f"{name}_growth_mb"] = memory("VmHWM") - before

    @contextlib.contextmanager
    def kept(self, name: str, *, per: int) -> Iterator[None]:
        """Measure what a block leaves in memory, which has `per` like things.

        `<name>_kb`: KiB of resident memory above what was resident before, for each.
        """
        before = memory("VmRSS")
        yield
        self.figures[f"{name}_kb"] = (memory("VmRSS") - before) * 1024 / per

    def finish(self) -> Figures:
        """All figures, with the peak of this process's memory."""
        self.figures["rss_peak_mb"] = max(self._peak, memory("VmHWM"))
        return self.figures


def memory(what: str = "VmRSS") -> float:
    """MiB of this process's memory, by the name that Linux has for it."""
    # Not ru_maxrss, which a process inherits from the one that forked it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def _cpu() -> float:
    """Seconds of CPU of this process, of the children that it has waited for, and of the rest.

    Those that still run are known to a hundredth of a second.
    """
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used) + sum(map(_ticks, _descendants()))


def _descendants(pid: int | str = "self") -> list[int]:
    """The processes that this one, or another, has started and that still run."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended
            for child in map(int, path.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _ticks(pid: int) -> float:
    """Seconds of CPU of a process and of the children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def adopt() -> None:
    """Be the parent of what our descendants leave behind."""
    assert ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def end_adopted() -> None:
    """End what was left behind."""
    while left := _descendants():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            os.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one fresh process measured of one variant; `error` says why it measured nothing."""

    variant: str
    round: int
    figures: Figures = field(default_factory=dict)
    error: str = ""


def interleaved(
    script: Path, variants: Sequence[str], rounds: int, seed: int, settings: Mapping[str, Any]
) -> list[Sample]:
    """Sample each of `variants` once a round, in a new order each time.

    `script` is run as ``script --sample``, reads ``{"variant": ..., **settings}`` and prints
    figures, as JSON both. What drifts on the machine meets all variants alike, since they take
    turns.
    """
    order, samples = random.Random(seed), []
    for number in range(rounds):
        for variant in order.sample(variants, len(variants)):
            sample = _sample(script, variant, number, settings)
            said = sample.error or " ".join(f"{k}={v:.3f}" for k, v in sample.figures.items())
            print(f"round {number + 1}/{rounds} {variant}: {said}", file=sys.stderr, flush=True)
            samples.append(sample)
    return samples


def _sample(script: Path, variant: str, number: int, settings: Mapping[str, Any]) -> Sample:
    job = json.dumps({"variant": variant, **settings})
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SSH_", "PRECIP_"))}
    try:
        ran = subprocess.run(
            [sys.executable, str(script), "--sample"],
            input=job,
            capture_output=True,
            text=True,
            timeout=SAMPLE_TIMEOUT,
            check=True,
            env=environment,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit {error.returncode}"])[-1]
        return Sample(variant=variant, round=number, error=last)
    except subprocess.TimeoutExpired:
        return Sample(variant=variant, round=number, error=f"no end within {SAMPLE_TIMEOUT:g} s")
    return Sample(variant=variant, round=number, figures=json.loads(ran.stdout.splitlines()[-1]))


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """What the figures depend on: the computer, and the versions of what was measured."""
    models = [
        line.partition(":")[2].strip()
        for line in (CPU_MODEL.read_text().splitlines() if CPU_MODEL.exists() else [])
        if line.startswith("model name")
    ]
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    for program in ("ssh", "pdsh"):
        with contextlib.suppress(OSError):
            ran = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
            versions[program] = (ran.stdout + ran.stderr).splitlines()[0]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _medians(samples: Sequence[Sample]) -> dict[str, Figures]:
    """The median of each figure of each variant that was measured at all."""
    measured: dict[str, list[Figures]] = {}
    for sample in samples:
        if sample.figures:
            measured.setdefault(sample.variant, []).append(sample.figures)
    return {
        variant: {name: statistics.median(one[name] for one in of) for name in of[0]}
        for variant, of in measured.items()
    }


def account(
    *,
    benchmark: str,
    samples: Sequence[Sample],
    seed: int,
    settings: Mapping[str, Any],
    packages: Iterable[str],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """One document with everything that was seen, and the medians."""
    return {
        "benchmark": benchmark,
        "machine": machine(packages),
        "load_before": LOAD,
        "seed": seed,
        "settings": dict(settings),
        "skipped": dict(skipped),
        "medians": _medians(samples),
        "samples": [
            {"variant": s.variant, "round": s.round, "error": s.error, **s.figures} for s in samples
        ],
    }


def table(medians: Mapping[str, Figures], base: str, ratios: Sequence[str]) -> str:
    """The medians as text; figures named in `ratios` also as multiples of `base`'s."""
    names = list(dict.fromkeys(name for figures in medians.values() for name in figures))
    columns = ["variant", *names, *(f"{name} / {base}" for name in ratios if base in medians)]
    rows = []
    for variant, figures in medians.items():
        row = [variant, *(f"{figures[name]:.3f}" if name in figures else "" for name in names)]
        if base in medians:
            row += [f"{figures[name] / medians[base][name]:.2f}" for name in ratios]
        rows.append(row)
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [columns, *rows]
    )
