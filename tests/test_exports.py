"""The public names: those of the design that exist, no others, and the same in both halves."""

from __future__ import annotations

import subprocess
import sys

import pytest

import precip_async
from precip_async import errors, sync

EXPERIMENTS = {"Experiment", "HostsExperiment", "LocalExperiment"}
VALUES = {"CommandResult", "Instance", "Limits", "RunResults"}
# Of the design, and here as soon as it is written.
PLANNED = {
    "EC2Experiment",
    "EucalyptusExperiment",
    "NimbusExperiment",
    "OpenStackExperiment",
}
# What the public names take or give, and so have to be named by those who annotate.
COMPANIONS = {"BootDiagnosis", "Chunk", "DetachedRun", "Faults", "Job", "Leftover"}
# What is done without an experiment.
FUNCTIONS = {"reap"}


def test_the_public_names_are_those_of_the_design() -> None:
    """Experiments, values and all errors are public, and nothing that the design does not know."""
    wanted = EXPERIMENTS | VALUES | set(errors.__all__)

    assert set(precip_async.__all__) >= wanted
    assert set(precip_async.__all__) <= wanted | PLANNED | COMPANIONS | FUNCTIONS | {"__version__"}


def test_the_public_names_are_in_order() -> None:
    """The public names are sorted, so that two of a kind are seen next to each other."""
    assert list(precip_async.__all__) == sorted(set(precip_async.__all__))


@pytest.mark.parametrize("name", precip_async.__all__)
def test_a_public_name_can_be_had(name: str) -> None:
    """Every public name is an attribute, and `dir` shows it."""
    assert getattr(precip_async, name) is not None
    assert name in dir(precip_async)


def test_a_name_that_is_not_there_says_so() -> None:
    """A misspelt name is an `AttributeError` that shows the name, as with any module."""
    name = "LocalExperimnt"
    with pytest.raises(AttributeError, match=name):
        getattr(precip_async, name)


def test_the_blocking_half_has_the_same_names() -> None:
    """`precip_async.sync` exports the same names, so that an import line is all that differs."""
    assert set(sync.__all__) == set(precip_async.__all__) - {"__version__"}


@pytest.mark.parametrize("name", sorted(VALUES | set(errors.__all__)))
def test_values_and_errors_are_the_same_in_both_halves(name: str) -> None:
    """What is no experiment is the very same class in both halves: `except` works across them."""
    assert getattr(sync, name) is getattr(precip_async, name)


@pytest.mark.parametrize("module", ["precip_async", "precip_async.sync"])
def test_a_star_import_gives_what_a_script_needs(module: str) -> None:
    """A script that imports `*`, as 2012's did, has the experiments and the root of the errors."""
    program = f"from {module} import *\nLocalExperiment, HostsExperiment, ExperimentException"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stderr == ""
