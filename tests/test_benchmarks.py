"""The benchmarks: that they run, and that what was committed of them can be shown to anybody."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path

BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
MOST = 500 * 1024  # bytes of results and charts in the repository


def document_of(script: str, *arguments: str) -> dict[str, Any]:
    """What a benchmark prints."""
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


@pytest.mark.slow
@pytest.mark.sshd
@pytest.mark.parametrize(
    ("script", "arguments", "variant", "figure"),
    [
        ("fan_out.py", "--hosts 3 --variants precip_async", "precip_async", "warm_cpu_ms"),
        ("fan_out.py", "--hosts 3 --variants ssh-mux", "ssh-mux", "cold_cpu_ms"),
        ("growth.py", "--hosts 3 --variants silent", "silent 3", "kib_a_host"),
        ("idle.py", "--hosts 3 --variants pool", "pool", "idle_kb"),
        ("workers.py", "--hosts 3 --variants two", "two", "share_parent"),
        ("experiment.py", "--instances 1 --variants local", "local 1", "life_cpu_ms"),
    ],
    ids=["fan_out", "programs", "growth", "idle", "workers", "experiment"],
)
def test_a_benchmark_prints_one_document(
    script: str, arguments: str, variant: str, figure: str
) -> None:
    """With every sample, the machine and the settings, so that a figure can be judged."""
    document = document_of(script, "--rounds", "2", *arguments.split())

    assert [sample["error"] for sample in document["samples"]] == ["", ""]
    assert document["medians"][variant][figure] > 0
    assert {"machine", "load_before", "seed", "settings", "skipped"} <= document.keys()
    assert {"cpu", "cores", "memory_gib", "system", "python"} <= document["machine"].keys()


def test_an_unknown_variant_is_refused_with_those_there_are() -> None:
    """Before anything is started."""
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / "fan_out.py", "--variants", "telnet"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert ran.returncode == 2
    assert "no such variant: telnet; there are precip_async, " in ran.stderr


@pytest.mark.parametrize("result", RESULTS, ids=lambda path: path.stem)
def test_a_result_tells_nothing_of_who_measured(result: Path) -> None:
    """No host name, no path, no address but loopback's; and no sample that failed."""
    text = result.read_text()
    paths = set(re.findall(r'(?<=")/\w[^"]*', text)) - {"/dev/null"}

    assert not paths
    assert f'"{os.uname().nodename}"' not in text
    assert not re.findall(r"\b(?!127\.)\d+\.\d+\.\d+\.\d+\b", re.sub(r'"versions".*?}', "", text))
    assert not re.findall(r'"error": "[^"]', text)


def test_results_and_charts_are_small() -> None:
    """Whoever clones the repository has them with every version."""
    assert sum(path.stat().st_size for path in (BENCHMARKS / "results").iterdir()) <= MOST
