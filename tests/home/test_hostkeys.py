"""Host keys: what was pinned stays pinned, and known_hosts reads as OpenSSH reads it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from precip_async.errors import HomeError, InvalidArgument
from precip_async.home import hostkeys
from precip_async.home.files import locked
from precip_async.home.hostkeys import HostKeys, KnownHosts, read_known_hosts
from tests.home.companions import together
from tests.home.test_directory import mend

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from precip_async.home.directory import Home


def key_line(seed: int) -> str:
    """A public key line, always the same for one `seed`."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([seed]) * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


A, B, C = (key_line(seed) for seed in range(3))


@pytest.fixture
def pinned(home: Home) -> HostKeys:
    """The pinned keys of a fresh home."""
    return HostKeys(home)


def test_a_pinned_key_is_found_again(home: Home, pinned: HostKeys) -> None:
    """By whoever opens the home next, without its comment."""
    assert pinned.pin("i-1", [f"{A} root@host", B, A]) == (A, B)

    assert pinned.get("i-1") == (A, B)
    assert HostKeys(home).get("i-1") == (A, B)
    assert (home.path / "host_keys").read_text() == f"i-1 {A}\ni-1 {B}\n"


def test_nothing_is_pinned_at_first(pinned: HostKeys) -> None:
    """No file is needed to say so."""
    assert pinned.get("i-1") == ()


def test_the_file_is_ours_alone(home: Home, pinned: HostKeys) -> None:
    """Before and after it was rewritten."""
    for change in (lambda: pinned.pin("i-1", [A]), lambda: pinned.forget(["i-1"])):
        change()
        assert stat.S_IMODE((home.path / "host_keys").stat().st_mode) == 0o600


def test_the_first_pin_stays(home: Home, pinned: HostKeys) -> None:
    """A later one is told what is pinned, and changes nothing."""
    pinned.pin("host:22", [A])

    assert HostKeys(home).pin("host:22", [B]) == (A,)
    assert pinned.get("host:22") == (A,)


def test_many_are_pinned_at_once(
    home: Home, pinned: HostKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet's keys take one writing; what was pinned before stays; of nonsense none is pinned."""
    HostKeys(home).pin("i-2", [B])
    locks: list[Path] = []

    def counted(path: Path) -> AbstractContextManager[None]:
        locks.append(path)
        return locked(path)

    monkeypatch.setattr(hostkeys, "locked", counted)

    now = pinned.pin_all({f"i-{number}": [A] for number in range(1, 51)})

    assert now == {f"i-{number}": (B if number == 2 else A,) for number in range(1, 51)}
    assert len(locks) == 1
    assert HostKeys(home).get("i-50") == (A,)
    with pytest.raises(InvalidArgument, match="no host key"):
        pinned.pin_all({"i-51": [A], "i-52": []})
    assert pinned.get("i-51") == ()


def test_a_forgotten_key_can_be_pinned_anew(home: Home, pinned: HostKeys) -> None:
    """Others are kept."""
    pinned.pin("i-1", [A])
    pinned.pin("i-2", [B])
    pinned.forget(["i-1", "i-9"])

    assert pinned.get("i-1") == ()
    assert pinned.get("i-2") == (B,)
    assert pinned.pin("i-1", [C]) == (C,)
    assert (home.path / "host_keys").read_text() == f"i-2 {B}\ni-1 {C}\n"


def test_to_forget_nothing_writes_nothing(home: Home, pinned: HostKeys) -> None:
    """Most experiments pin nothing of what they forget."""
    pinned.forget(["i-1"])

    assert not (home.path / "host_keys").exists()


def test_what_another_pins_or_forgets_is_seen(home: Home, pinned: HostKeys) -> None:
    """The file is looked at whenever something is asked."""
    other = HostKeys(home)
    assert pinned.get("i-1") == ()
    other.pin("i-1", [A])
    assert pinned.get("i-1") == (A,)
    other.forget(["i-1"])
    assert pinned.get("i-1") == ()


def test_the_file_is_read_only_when_it_has_changed(
    pinned: HostKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand connections cost one reading, and so do a thousand pins of our own."""
    read: list[str] = []
    parsed = hostkeys._parsed

    def counted(path: Path, text: str) -> dict[str, tuple[str, ...]]:
        read.append(text)
        return parsed(path, text)

    monkeypatch.setattr(hostkeys, "_parsed", counted)
    for number in range(50):
        pinned.pin(f"i-{number}", [A])
        assert pinned.get(f"i-{number}") == (A,)

    assert read == [""]


def test_processes_that_pin_at_once_lose_nothing(home: Home, pinned: HostKeys) -> None:
    """While each forgets every other one of its own, so that the file is rewritten as well."""
    script = """
pinned, who, key = HostKeys(Home.open(sys.argv[1])), sys.argv[2], sys.argv[3]
go()
for number in range(30):
    pinned.pin(f"{who}-{number}", [key])
    if number % 2:
        pinned.forget([f"{who}-{number}"])
"""
    together(script, [[home.path, who, A] for who in "abcd"])

    kept = [(f"{who}-{number}", number % 2) for who in "abcd" for number in range(30)]
    assert [pinned.get(alias) for alias, gone in kept] == [() if gone else (A,) for _, gone in kept]


def test_processes_that_disagree_hear_of_it(home: Home) -> None:
    """Of two that meet different keys at one address, one has met an impostor."""
    script = """
pinned = HostKeys(Home.open(sys.argv[1]))
go()
say(*pinned.pin("host:22", [sys.argv[2]]))
"""
    said = together(script, [[home.path, key] for key in (A, B, C)])

    assert len(set(said)) == 1


def test_a_line_cut_off_is_passed_over_and_mended(home: Home, pinned: HostKeys) -> None:
    """Whoever was killed while writing costs only what was being written."""
    pinned.pin("i-1", [A])
    with (home.path / "host_keys").open("a") as file:
        file.write(f"i-2 ssh-ed25519 {'A' * 200}")

    assert pinned.get("i-1") == (A,)
    assert pinned.get("i-2") == ()
    pinned.pin("i-3", [B])
    assert (home.path / "host_keys").read_text() == f"i-1 {A}\ni-3 {B}\n"


@pytest.mark.parametrize("line", ["i-2", "i-2 ssh-ed25519", "i-2 ssh-ed25519 AAAA", "\x00\x01"])
def test_a_damaged_line_is_named(home: Home, pinned: HostKeys, line: str) -> None:
    """What can't be understood is not passed over: it may have been a pin. The advice helps."""
    (home.path / "host_keys").write_text(f"# mine\n\ni-1 {A}\n{line}\ni-3 {C}\n")

    with pytest.raises(HomeError, match="line 4 is damaged") as caught:
        pinned.get("i-1")
    mend(caught.value)

    assert (pinned.get("i-1"), pinned.get("i-3")) == ((A,), (C,))


@pytest.mark.parametrize("alias", ["", "a b", "a\n", "#a"])
def test_an_alias_is_a_word(pinned: HostKeys, alias: str) -> None:
    """Anything else would be read back as something else."""
    with pytest.raises(InvalidArgument, match="alias"):
        pinned.pin(alias, [A])


@pytest.mark.parametrize("keys", [[], ["ssh-ed25519"], ["ssh-rsa " + A.split()[1]], ["x y"], [""]])
def test_what_is_no_key_is_not_pinned(pinned: HostKeys, keys: list[str]) -> None:
    """A host that is pinned to nothing could never be reached, or by anybody."""
    with pytest.raises(InvalidArgument, match="key"):
        pinned.pin("i-1", keys)


def hashed(name: str) -> str:
    """`name` as ``HashKnownHosts yes`` writes it."""
    salt = b"twenty bytes of salt"
    digest = hmac.digest(salt, name.encode(), hashlib.sha1)
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("text", "host", "port", "keys"),
    [
        (f"host {A}", "host", 22, (A,)),
        (f"host\t{A} a comment", "host", 22, (A,)),
        (f"host {A}\r\n", "host", 22, (A,)),
        (f"  host {A}", "host", 22, (A,)),
        (f"HOST {A}", "Host", 22, (A,)),
        (f"host {A}", "hostess", 22, ()),
        (f"host,10.0.0.1,::1 {A}", "10.0.0.1", 22, (A,)),
        (f"host,10.0.0.1,::1 {A}", "::1", 22, (A,)),
        (f"[host]:2222 {A}", "host", 2222, (A,)),
        (f"[host]:2222 {A}", "host", 22, ()),
        (f"[::1]:2222 {A}", "::1", 2222, (A,)),
        (f"host {A}", "host", 2222, (A,)),
        (f"host {A}\n[host]:2222 {B}", "host", 2222, (B,)),
        (f"host {A}\nhost {B}\nhost {A}", "host", 22, (A, B)),
        (f"*.example.com {A}", "a.example.com", 22, (A,)),
        (f"*.example.com {A}", "example.com", 22, ()),
        (f"node?? {A}", "node07", 22, (A,)),
        (f"node?? {A}", "node7", 22, ()),
        (f"*,!bad {A}", "good", 22, (A,)),
        (f"*,!bad {A}", "bad", 22, ()),
        (f"!bad,* {A}\nbad {B}", "bad", 22, (B,)),
        (f"!bad {A}", "good", 22, ()),
        (f"[ab] {A}", "a", 22, ()),
        (f"[*]:2222 {A}", "host", 2222, (A,)),
        (f"* {A}\nhost {B}\n{hashed('host')} {C}", "host", 22, (A, B, C)),
        (f"{hashed('host')} {A}", "HOST", 22, (A,)),
        (f"{hashed('[host]:2222')} {A}", "host", 2222, (A,)),
        (f"{hashed('host')} {A}", "other", 22, ()),
        (f"host {A}\n@revoked host {A}", "host", 22, ()),
        (f"host {A}\nhost {B}\n@revoked * {A}", "host", 22, (B,)),
        (f"host {A}\n@revoked other {A}", "host", 22, (A,)),
        (f"@cert-authority * {A}\nhost {B}", "host", 22, (B,)),
        (f"@unheard-of host {A}", "host", 22, ()),
        (f"# host {A}\n#host {A}", "host", 22, ()),
        (
            f"host\nhost ssh-ed25519\nhost 1024 35 123\n\n|1|x {A}\n|1|é|x {A}\n@revoked",
            "host",
            22,
            (),
        ),
        (f"caf\udce9 {B}\nhost {A}", "host", 22, (A,)),
    ],
)
def test_known_hosts_reads_as_openssh_reads_it(
    text: str, host: str, port: int, keys: tuple[str, ...]
) -> None:
    """Names, ports, lists, patterns, hashes and markers, in the order of the file."""
    assert KnownHosts(text)(host, port) == keys


def test_revoked_keys_are_told() -> None:
    """They must not be taken where another source names them either."""
    known = KnownHosts(f"@revoked *.org {A}\n@revoked b.org {B}")

    assert known.revoked("b.org") == (A, B)
    assert known.revoked("b.com") == ()


@pytest.mark.sshd
def test_a_file_that_openssh_hashed_is_understood(tmp_path: Path) -> None:
    """ssh-keygen hashes it in place."""
    path = tmp_path / "known_hosts"
    path.write_text(f"host,10.0.0.1 {A}\n[host]:2222 {B}\n")
    subprocess.run(
        [shutil.which("ssh-keygen") or "", "-q", "-H", "-f", path], check=True, capture_output=True
    )
    assert "host" not in path.read_text()

    known = read_known_hosts(path)

    assert [known("host"), known("10.0.0.1"), known("host", 2222)] == [(A,), (A,), (B,)]


def test_a_file_is_read_once(tmp_path: Path) -> None:
    """What was parsed answers from memory."""
    path = tmp_path / "known_hosts"
    path.write_bytes(f"host {A}\ncaf\xe9 {B}\n".encode("latin-1"))
    known = read_known_hosts(path)
    path.unlink()

    assert known("host") == (A,)


def test_a_hashed_file_is_searched_once_for_each_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest a line is dear, with thousands of connections."""
    known = KnownHosts(f"{hashed('a')} {A}\n{hashed('b')} {B}")
    digested: list[bytes] = []
    digest = hmac.digest

    def counted(key: bytes, message: bytes, name: str) -> bytes:
        digested.append(message)
        return digest(key, message, name)

    monkeypatch.setattr(hmac, "digest", counted)
    for _ in range(10):
        assert known("a") == (A,)

    assert digested == [b"a", b"a"]


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    """Whoever names a file means it."""
    with pytest.raises(InvalidArgument, match="No such file"):
        read_known_hosts(tmp_path / "missing")
