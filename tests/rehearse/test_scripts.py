"""What a script finds in a rehearsal, and where its experiments are led."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rehearse.rig import LAUNCH, rehearse

if TYPE_CHECKING:
    from pathlib import Path

SURROUNDINGS = """
import os, sys
print(sys.argv, __name__, __file__, __doc__, sys.path[0], os.getcwd(), sorted(globals()))
print(sys.modules["__main__"].__file__, sys.stdin.read())
class Mine: pass
import pickle
print(type(pickle.loads(pickle.dumps(Mine()))) is Mine)
sys.exit("that is all")
"""
AWAITED = """
import asyncio, sys
from precip_async import EC2Experiment, LocalExperiment

async def main():
    async with EC2Experiment("us-east-1") as cloud, LocalExperiment(isolation="process") as here:
        await cloud.provision("ami-0abcdef1234567890", count=2, tags=["a"])
        await here.provision(tags=["b"])
        await cloud.wait()
        await here.wait()
        print((await cloud.run(["a"], "id -un", parallel=True))[1], here.list(["b"])[0]["state"])

asyncio.run(main())
"""
LOCAL = """
import sys
from precip_async.sync import *
with LocalExperiment(quiet=True) as exp:
    exp.provision("any words", "any", tags=["a"])
    exp.wait()
    print(exp.run(["a"], "id -un")[1])
sys.exit(3)
"""
HOSTS = """
from precip.experiment import HostsExperiment
with HostsExperiment({"one.invalid": ["master"], "me@two.invalid:22": ["worker"]}) as exp:
    exp.provision(count=2)
    exp.wait()
    print(exp.run(["worker"], "id -un")[1], len(exp.list()))
    exp.deprovision(["worker"])
    exp.provision()
    print(len(exp.list(["worker"])), len(exp.list(["master"])))
"""
FORKED = """
import os
from precip import *
if os.fork() == 0:
    try:
        EC2Experiment("us-west-2", None, "key", "secret", quiet=True)
    except ExperimentException as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_script_finds_what_python_gives_it(tmp_path: Path) -> None:
    """Arguments, names, paths, stdin and the way it ends are those of ``python script.py``."""
    given = ("--cloud", "--", "x y", "")
    ran = rehearse(tmp_path, SURROUNDINGS, arguments=given)
    plain = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), *given],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )

    assert ran.stdout == plain.stdout
    assert ran.code == plain.returncode == 1
    assert ran.stderr.startswith(plain.stderr)


def test_an_async_script_is_led_and_local_instances_stay(tmp_path: Path) -> None:
    """Awaited classes are led as the twins are; without --cloud a local experiment is local."""
    ran = rehearse(tmp_path, AWAITED)

    assert (ran.code, ran.stdout) == (0, "['root\\n', 'root\\n'] ready\n")
    assert [place["dialect"] for place in ran.facts["places"]] == ["amazon", "local"]
    assert [one["tags"] for one in ran.instances] == [["a"], ["a"], ["b"]]
    assert all(one["ready"] and one["end"] == "ended" for one in ran.instances)


def test_a_local_script_is_rehearsed_for_a_cloud(tmp_path: Path) -> None:
    """With --cloud it runs there; what that cloud can't have is replaced, and it is said."""
    ran = rehearse(tmp_path, LOCAL, "--cloud", "ec2")

    [place] = ran.facts["places"]
    [instance] = place["instances"]
    assert (ran.code, ran.stdout) == (3, "['root\\n']\n")
    assert (place["dialect"], place["stands_for"]) == ("amazon", "instances on this computer")
    assert instance["image_id"].startswith("ami-")
    assert instance["instance_type"] == "m1.small"
    assert len(ran.facts["remarks"]) == 2
    assert "Amazon EC2 has no image 'any words': ami-" in ran.stderr


def test_hosts_are_left_alone(tmp_path: Path) -> None:
    """Without --cloud an experiment on real hosts is refused, and told what to do."""
    ran = rehearse(tmp_path, HOSTS)

    assert ran.code == 1
    assert "InvalidArgument: a rehearsal does nothing to what is real" in ran.stderr
    assert "--cloud ec2" in ran.stderr


@pytest.mark.slow
def test_instances_stand_in_for_hosts(tmp_path: Path) -> None:
    """With --cloud there is one for each host, which bears its tags and gives them back."""
    ran = rehearse(tmp_path, HOSTS, "--cloud", "ec2")

    assert (ran.code, ran.stdout) == (0, "['root\\n'] 2\n1 1\n"), ran.stderr
    assert [one["tags"] for one in ran.instances] == [["master"], ["worker"], ["worker"]]


def test_a_fork_of_the_script_is_not_led_astray(tmp_path: Path) -> None:
    """An experiment of a forked process is refused: it must not reach a real cloud."""
    ran = rehearse(tmp_path, FORKED)

    assert ran.stdout.startswith("a rehearsal leads the experiments of the script's own process")
    assert ran.facts["places"] == []


@pytest.mark.slow
def test_faults_are_in_the_report(tmp_path: Path) -> None:
    """What the scenario did to a machine stands beside it, also where it was replaced."""
    ran = rehearse(tmp_path, LAUNCH, "--scenario", "dies_booting=0 dies_after=0.1")

    first, second = ran.instances
    assert (first["fault"], first["end"], first["ready"]) == ("dies_booting", "ended", None)
    assert (second["fault"], second["end"], second["tags"]) == ("", "ended", ["worker"])
    assert "ended (dies_booting)" in ran.stderr
