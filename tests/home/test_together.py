"""Many scripts that start at once on one home."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.home.keys import ed25519_key, rsa_key
from tests.home.companions import together
from tests.home.test_directory import ACCOUNT_ID, left_by_03

if TYPE_CHECKING:
    from pathlib import Path

TWENTY = 20

SCRIPT = """
go()
home = Home.open(sys.argv[1])
keys = ed25519_key(home), rsa_key(home)
journal = Journal.open(home)
journal.intend(token=sys.argv[2], experiment="x", cloud="c", image_id="i", instance_type="t",
               count=1, first=0)
journal.close()
say(home.account_id, *(key.public_line for key in keys), hash(keys[0].private_openssh()) != 0)
"""


def test_twenty_processes_end_with_one_identity(tmp_path: Path) -> None:
    """On an empty home they agree on one id and one key of each kind, and leave nothing half."""
    place = tmp_path / "home"

    said = together_on(place)

    home = Home.open(place)
    assert set(said) == {
        f"{home.account_id} {ed25519_key(home).public_line} {rsa_key(home).public_line} True\n"
    }
    key = f"precip_{home.account_id}"
    pairs = {key, f"{key}.pub", f"{key}_ed25519", f"{key}_ed25519.pub"}
    kept = {"account_id", "names", "journal.sqlite", "journal.lock"}
    assert {path.name for path in place.iterdir()} == pairs | kept


def test_twenty_processes_write_one_journal(tmp_path: Path) -> None:
    """The journal that they made at once has the launches of all."""
    together_on(tmp_path / "home")

    journal = Journal.open(Home.open(tmp_path / "home"))
    tokens = {row.token for row in journal.alive()}
    journal.close()

    assert tokens == {str(number) for number in range(TWENTY)}


def test_twenty_processes_take_over_a_home_left_by_03(tmp_path: Path) -> None:
    """None of them refuses what another is just mending."""
    place = left_by_03(tmp_path / "home")
    script = "go()\nsay(Home.open(sys.argv[1]).account_id)"

    assert set(together(script, [[place]] * TWENTY)) == {f"{ACCOUNT_ID}\n"}


def together_on(place: Path) -> list[str]:
    return together(SCRIPT, [[place, number] for number in range(TWENTY)])
