"""The home's key pairs: made once, whole, and read by nobody else."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import asyncssh
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from precip_async.errors import HomeError
from precip_async.home.directory import Home
from precip_async.home.keys import ed25519_key, generate_host_key, rsa_key
from tests.home.companions import foreign_file
from tests.home.test_directory import left_by_03, mend

if TYPE_CHECKING:
    from pathlib import Path

PEM = serialization.Encoding.PEM
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL
OPENSSH = serialization.PrivateFormat.OpenSSH
PLAIN = serialization.NoEncryption()


def public_of(private: bytes) -> str:
    """The public line as asyncssh, which will use the key, derives it."""
    return asyncssh.import_private_key(private).export_public_key().decode().strip()


@pytest.fixture
def key(home: Home) -> Path:
    """The file of the home's Ed25519 key."""
    return ed25519_key(home).path


def test_the_public_line_belongs_to_the_private_key(home: Home) -> None:
    """What is given to a cloud opens what it starts."""
    pair = ed25519_key(home)

    assert pair.public_line == f"{public_of(pair.private_openssh())} precip-{home.account_id}"
    assert pair.path.with_name(f"{pair.path.name}.pub").read_text() == f"{pair.public_line}\n"


def test_a_key_is_made_once(home: Home) -> None:
    """Asked again, it is the same."""
    assert ed25519_key(home) == ed25519_key(home)
    assert rsa_key(home) == rsa_key(home)


def test_a_private_key_is_ours_alone(home: Home) -> None:
    """Whatever the umask."""
    before = os.umask(0)
    try:
        path = ed25519_key(home).path
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_rsa_key_is_made_only_when_asked_for(home: Home) -> None:
    """A home that speaks to newer clouds only never has one."""
    ed25519_key(home)

    assert not (home.path / f"precip_{home.account_id}").exists()


def test_the_rsa_key_has_a_length_that_every_cloud_takes(home: Home) -> None:
    """Eucalyptus takes 1024, 2048 and 4096 bits and nothing between."""
    loaded = serialization.load_ssh_private_key(rsa_key(home).private_openssh(), None)

    assert isinstance(loaded, rsa.RSAPrivateKey)
    assert loaded.key_size == 2048


@pytest.mark.parametrize("style", [TRADITIONAL, OPENSSH])
def test_the_key_of_03_is_taken_over_as_it_is(
    tmp_path: Path, style: serialization.PrivateFormat
) -> None:
    """Machines that know it still let us in; its public file keeps its own comment."""
    old = rsa.generate_private_key(65537, 2048).private_bytes(PEM, style, PLAIN)
    place = left_by_03(tmp_path / "home")
    home = Home.open(place)
    path = place / f"precip_{home.account_id}"
    path.write_bytes(old)
    path.with_suffix(".pub").write_text(f"{public_of(old)} me@work\n")

    pair = rsa_key(home)

    assert pair.private_openssh() == old
    assert pair.public_line == f"{public_of(old)} precip-{home.account_id}"
    assert path.with_suffix(".pub").read_text() == f"{public_of(old)} me@work\n"


def test_a_public_file_follows_the_private_key(home: Home, key: Path) -> None:
    """A missing one, and one of another key, are written anew."""
    public = key.with_name(f"{key.name}.pub")
    content = public.read_text()

    public.write_text(generate_host_key()[1])
    ed25519_key(home)
    assert public.read_text() == content

    public.unlink()
    ed25519_key(home)
    assert public.read_text() == content


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_that_others_can_reach_is_refused(home: Home, key: Path, mode: int) -> None:
    """The advice is a command, and it helps."""
    key.chmod(mode)

    with pytest.raises(HomeError, match="others may read it") as caught:
        ed25519_key(home)
    mend(caught.value)

    assert ed25519_key(home).path == key


def test_a_key_that_others_can_reach_is_not_read_either(home: Home) -> None:
    """A pair that was opened before its file was is judged again when it is read."""
    pair = ed25519_key(home)
    pair.path.chmod(0o644)

    with pytest.raises(HomeError, match="chmod 600"):
        pair.private_openssh()


def test_a_link_to_a_file_of_someone_else_is_refused(home: Home, key: Path, tmp_path: Path) -> None:
    """What they put there is no key of ours."""
    key.unlink()
    key.symlink_to(foreign_file(tmp_path))

    with pytest.raises(HomeError, match="belongs to"):
        ed25519_key(home)


def test_a_link_to_a_key_of_our_own_is_followed(home: Home, key: Path, tmp_path: Path) -> None:
    """The key may be kept elsewhere, on an encrypted disk say."""
    pair = ed25519_key(home)
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")

    assert ed25519_key(home) == pair


def test_a_link_to_nothing_is_not_written_through(home: Home, key: Path, tmp_path: Path) -> None:
    """The disk that holds the key may not be mounted: no other key takes its place."""
    key.unlink()
    key.symlink_to(tmp_path / "unmounted")

    with pytest.raises(HomeError, match="No such file"):
        ed25519_key(home)
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize("length", [0, 1, 40, 200, 380])
def test_a_key_cut_off_is_refused(home: Home, key: Path, length: int) -> None:
    """No cloud is asked to take half a key; the advice makes a new one."""
    whole = key.read_bytes()
    key.write_bytes(whole[:length])

    with pytest.raises(HomeError, match="no usable private key") as caught:
        ed25519_key(home)
    mend(caught.value)

    assert ed25519_key(home).private_openssh() != whole


def test_a_key_of_another_kind_is_refused(home: Home, key: Path) -> None:
    """A cloud is told what kind it gets."""
    key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, OPENSSH, PLAIN))

    with pytest.raises(HomeError, match="of another kind than ssh-ed25519"):
        ed25519_key(home)


def test_a_key_with_a_passphrase_is_refused(home: Home) -> None:
    """Nobody can be asked for it; the error says how to take it off."""
    sealed = rsa.generate_private_key(65537, 2048).private_bytes(
        PEM, TRADITIONAL, serialization.BestAvailableEncryption(b"secret")
    )
    path = home.path / f"precip_{home.account_id}"
    path.write_bytes(sealed)
    path.chmod(0o600)

    with pytest.raises(HomeError, match="ssh-keygen -p") as caught:
        rsa_key(home)
    assert "secret" not in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(home: Home, key: Path) -> None:
    """To open a pipe is to wait for a writer."""
    key.unlink()
    os.mkfifo(key, 0o600)

    with pytest.raises(HomeError, match="not a regular file"):
        ed25519_key(home)


def test_the_private_key_is_not_shown(home: Home) -> None:
    """A pair may end up in a log."""
    pair = ed25519_key(home)

    assert pair.private_openssh().splitlines()[1].decode() not in repr(pair)


def test_host_keys_are_made_in_memory() -> None:
    """Each is another, and its public line says it without a comment."""
    (private, public), (other, _) = generate_host_key(), generate_host_key()

    assert public == public_of(private)
    assert private != other
