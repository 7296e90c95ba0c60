"""The home: one directory of the user's alone that outlives experiments."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from precip_async.errors import HomeError, InvalidArgument
from precip_async.home.files import (
    check_owner,
    create_once,
    private_directory,
    reported,
    sweep,
)

__all__ = ["Home", "checked_owner", "checked_path"]

_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}").fullmatch
Folder = Literal["output", "names", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """An open home; made by `Home.open`.

    Attributes:
        path: The directory, absolute.
        account_id: Whose it is: 32 hexadecimal digits, made once, as in precip 0.3.
        warnings: What the user should be told of, one sentence each.
    """

    path: Path
    account_id: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """Open the home at `path`, else ``$PRECIP_HOME``, else ``~/.precip``. Blocks.

        A missing one is made. One that precip 0.3 left is taken over: its directory and files are
        closed to others, once, and `warnings` says so.

        Raises:
            InvalidArgument: The path is not absolute.
            HomeError: The directory is someone else's, open to others, or can't be used.
        """
        place = _place(path)
        # Asked before the modes are looked at: who takes a home over makes it ours last of all, so
        # that one which is no longer 0.3's has been mended already, if only just now by another.
        left_by_03 = _left_by_03(place)
        warnings: list[str] = []
        if private_directory(place, mend=left_by_03):
            warnings.append(f"{place}, left by precip 0.3, was open to others; it is closed now")
        if left_by_03:
            warnings += [
                f"{key} was open to others, who may have it; to be safe, move it away: a new key "
                "is made"
                for key in _close_files(place)
            ]
        with reported(place):
            sweep(place)
        home = cls(path=place, account_id=_account_id(place), warnings=tuple(warnings))
        home.runtime("names")
        return home

    def runtime(self, name: Folder) -> Path:
        """The folder `name` of the home, which is made where it is missing. Blocks.

        Raises:
            HomeError: It is open to others, or can't be made.
        """
        folder = self.path / name
        private_directory(folder)
        return folder


def checked_path(path: object, what: str) -> Path:
    """`path` as an absolute path, a leading ``~`` resolved; `what` names it in the message.

    Raises:
        InvalidArgument: It is relative: another working directory would make it another place.
    """
    given = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(given, str) or "\0" in given:
        raise InvalidArgument(f"{what} must be a path, not {path!r}")
    if given == "~" or given.startswith("~/"):
        return _user_directory() / given[2:]
    return _absolute(given, what)


def checked_owner(given: object) -> str:
    """`given`, if it can be the id of an account.

    Raises:
        InvalidArgument: It can't: what is empty or cut short must not mean somebody else.
    """
    if not isinstance(given, str) or not _ACCOUNT_ID(given):
        raise InvalidArgument(
            "owner must be an account id, which is 32 hexadecimal digits in the file account_id of "
            f"who launched it, not {given!r}; `precip reap --json` shows them whole"
        )
    return given


def _absolute(given: str, what: str) -> Path:
    path = Path(given)
    if not path.is_absolute():
        raise InvalidArgument(f"{what} must be an absolute path, not {given!r}")
    return path


def _place(path: str | os.PathLike[str] | None) -> Path:
    if path is not None:
        return checked_path(path, "home")
    if given := os.environ.get("PRECIP_HOME"):
        return checked_path(given, "PRECIP_HOME")
    return _user_directory() / ".precip"


def _user_directory() -> Path:
    if given := os.environ.get("HOME"):
        return _absolute(given, "HOME")
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise HomeError(
            path="~/.precip",
            problem=f"HOME is not set, and user {os.getuid()} has no entry in the password file",
            mend="say where the home is with home= or PRECIP_HOME",
        ) from None


def _left_by_03(place: Path) -> bool:
    """Whether all that is there was written by precip 0.3: an id and a key, and nothing of ours."""
    try:
        key = f"precip_{_read_account_id(place)}"
        names = {entry.name for entry in place.iterdir()}
    except (OSError, ValueError):  # missing, closed to us, or garbage: judged by who opens it
        return False
    return key in names and not names & {"names", "journal.sqlite", "host_keys", f"{key}_ed25519"}


def _close_files(place: Path) -> list[Path]:
    """Close the files of a home left by 0.3 to others; return the keys that were open."""
    keys: list[Path] = []
    with reported(place):
        for path in place.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process's draft
                info = path.lstat()
                ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid()
                if path.suffix == ".pub" or not ours or not stat.S_IMODE(info.st_mode) & 0o077:
                    continue
                path.chmod(0o600)
                if path.name != "account_id":  # which is no secret
                    keys.append(path)
    return keys


def _account_id(place: Path) -> str:
    path = place / "account_id"
    with reported(path):
        if not os.path.lexists(path):
            create_once(path, uuid.uuid4().hex.encode())
        check_owner(path, path.stat())
        with contextlib.suppress(UnicodeDecodeError):
            account_id = _read_account_id(place)
            if _ACCOUNT_ID(account_id):
                return account_id
    raise HomeError(
        path=str(path),
        problem="holds no account id (32 hexadecimal digits)",
        mend=f"restore it, or run: rm {shlex.quote(str(path))}, and a new identity is made",
    )


def _read_account_id(place: Path) -> str:
    return (place / "account_id").read_text(encoding="ascii").strip()
