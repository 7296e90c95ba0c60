"""User data: who it lets in, read as cloud-init would."""

from __future__ import annotations

import gzip
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.lab.user_data import Logins, read_user_data

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me@here"
OTHER = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ=="


def multipart(*parts: tuple[str, str]) -> bytes:
    """User data of several parts: types and texts."""
    whole = MIMEMultipart()
    for kind, text in parts:
        whole.attach(MIMEText(text, kind))
    return whole.as_bytes()


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("#cloud-config\ndisable_root: false\n", True),
        ("#cloud-config\ndisable_root: False  # we want it\n", True),
        ("#cloud-config\ndisable_root: no", True),
        ("#cloud-config\ndisable_root: true\n", False),
        ("#cloud-config\ndisable_root: true\ndisable_root: false\n", True),
        ("#cloud-config\nusers:\n  - disable_root: false\n", False),
        ('#cloud-config\n{"disable_root": false}', True),
        ('#cloud-config\n{"disable_root": ', False),
        ("disable_root: false\n", False),
        ("#!/bin/sh\n# disable_root: false\n", False),
        ("", False),
    ],
)
def test_root_is_let_in_where_the_config_says_so(text: str, root: bool) -> None:
    """Only a cloud-config that says so opens root."""
    assert read_user_data(text.encode()).root is root


def test_keys_are_taken_from_every_list_of_them() -> None:
    """The default user's keys, and those of users that are named."""
    text = f"""#cloud-config
ssh_authorized_keys:
  - {KEY}
users:
  - name: root
    ssh_authorized_keys:
      - "{OTHER}"
    shell: /bin/sh
packages:
  - ssh-import-id
"""

    assert read_user_data(text.encode()) == Logins(keys=(KEY, OTHER))


def test_keys_are_taken_from_json() -> None:
    """JSON is YAML too."""
    text = f'#cloud-config\n{{"ssh_authorized_keys": ["{KEY}"], "users": [{{"a": 1}}]}}'

    assert read_user_data(text.encode()).keys == (KEY,)


def test_parts_add_up_and_the_last_word_counts() -> None:
    """Of several cloud-configs the later one decides about root; keys add up."""
    whole = multipart(
        ("x-shellscript", "#!/bin/sh\necho disable_root: false\n"),
        ("cloud-config", f"#cloud-config\ndisable_root: true\nssh_authorized_keys:\n  - {KEY}\n"),
        ("cloud-config", f"disable_root: false\nssh_authorized_keys:\n  - {OTHER}\n"),
    )

    assert read_user_data(whole) == Logins(root=True, keys=(KEY, OTHER))


def test_compressed_user_data_is_read() -> None:
    """As cloud-init does."""
    assert read_user_data(gzip.compress(b"#cloud-config\ndisable_root: false\n")).root


def test_a_bomb_is_not_unpacked_whole() -> None:
    """What would take gigabytes is read up to a bound."""
    bomb = gzip.compress(b"#cloud-config\n" + b" " * 50_000_000 + b"\ndisable_root: false\n")

    assert read_user_data(bomb) == Logins()


@given(
    st.binary(max_size=300) | st.text(max_size=300).map(lambda t: f"#cloud-config\n{t}".encode())
)
def test_nothing_makes_it_fall_over(data: bytes) -> None:
    """Whatever the bytes, it says who may log in."""
    assert isinstance(read_user_data(data), Logins)
