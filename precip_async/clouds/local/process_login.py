"""What a login to a machine on this computer gets: a shell, an environment, a first line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from precip_async.clouds.local.process_sweep import MARK
from precip_async.shell import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SEARCH_PATH", "Request", "login_shell", "prelude", "sftp_server", "sudo", "valid_user"]

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What a client may set, as Debian's and Fedora's sshd allow.
ACCEPTED: Final = re.compile(r"LANG|LC_[A-Z]+")

#: Names useradd would take. They become a directory's name, so nothing else will do.
USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")

#: Where systems keep OpenSSH's sftp-server: Debian, Fedora, macOS and the BSDs, SUSE and Alpine.
SFTP_SERVERS: Final = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/ssh/sftp-server",
)

# $1 soft limit of open files: ours is raised, and some programs walk through all they may have.
# A home is made when it is first needed. What can't be entered is no reason to refuse a login.
_PRELUDE: Final = """
ulimit -S -n "$1"
[ -d "$HOME" ] || mkdir -m 0700 "$HOME"
cd "$HOME" || cd /
unset OLDPWD
shift
exec "$@"
"""
# A machine has one identity, whatever it is called: whom we become there by `sudo` is who is logged
# in already, in a home of that name. This computer's own sudo would go to its own homes, and
# drop what says where the machine keeps its cloud-init's state. Whatever else it is asked for, in
# other words than ours, is this computer's to do.
_SUDO: Final = """\
#!/bin/sh
case $1$2$3$5 in -n-H-u--) ;; *) PATH=@PATH@; export PATH; exec sudo "$@";; esac
SUDO_USER=$USER USER=$4 LOGNAME=$4
case $4 in root) HOME=@ROOT@;; *) HOME=@HOMES@$4;; esac
export SUDO_USER USER LOGNAME HOME
shift 5
[ -d "$HOME" ] || mkdir -m 0700 "$HOME"
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One session that a client asks for.

    Attributes:
        user: The name it logged in by.
        argv: What to run.
        client: The client's address and port.
        server: Ours.
        sent: The environment that the client sent; not all of it is taken.
        terminal: The terminal's device, where there is one.
        term: Its type.
    """

    user: str
    argv: tuple[str | bytes, ...]
    client: tuple[str, int]
    server: tuple[str, int]
    sent: Mapping[str, str] = field(default_factory=dict)
    terminal: str = ""
    term: str = ""

    def environment(self, machine_id: str, home: str) -> dict[str, str]:
        """All that the session finds in its environment; nothing of ours but the language."""
        env = {"LANG": os.environ["LANG"]} if "LANG" in os.environ else {}
        env |= {name: value for name, value in self.sent.items() if ACCEPTED.fullmatch(name)}
        client = f"{self.client[0]} {self.client[1]}"
        env |= {
            MARK: machine_id,
            "HOME": home,
            "LOGNAME": self.user,
            "PATH": SEARCH_PATH,
            "SHELL": _shell(),
            "SSH_CLIENT": f"{client} {self.server[1]}",
            "SSH_CONNECTION": f"{client} {self.server[0]} {self.server[1]}",
            "USER": self.user,
        }
        if self.terminal:
            env |= {"SSH_TTY": self.terminal, "TERM": self.term}
        return env


def login_shell(command: str | None) -> tuple[str | bytes, ...]:
    """The shell reading `command`, or a login shell reading its input.

    Args:
        command: Bytes that are not UTF-8 are surrogates in it.
    """
    if command is None:
        return (_shell(), "-l")
    return (_shell(), "-c", command.encode(errors="surrogateescape"))


def sftp_server() -> tuple[str, ...]:
    """The command line of this system's SFTP server; empty where there is none."""
    return next(((path,) for path in SFTP_SERVERS if os.access(path, os.X_OK)), ())


def prelude(open_files: int) -> tuple[str, ...]:
    """What to put before a session's own command line: limits, its home, and being there."""
    return ("/bin/sh", "-c", _PRELUDE, "login", str(open_files))


def sudo(root: str, homes: str) -> str:
    """What stands in for `sudo`, given the home of root and what those of others begin with."""
    facts = {"@PATH@": SEARCH_PATH, "@ROOT@": quote(root), "@HOMES@": quote(homes)}
    return re.sub("@[A-Z]+@", lambda found: facts[found[0]], _SUDO)


def valid_user(name: str) -> bool:
    """Whether there can be a login by this name."""
    return USER.fullmatch(name) is not None


def _shell() -> str:
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
