"""Host keys: those that we pinned, and those that the user's ``known_hosts`` names."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import shlex
import threading
from typing import TYPE_CHECKING, NamedTuple

from precip_async.errors import HomeError, InvalidArgument
from precip_async.home.files import locked, replace, reported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from precip_async.home.directory import Home

__all__ = ["HostKeys", "KnownHosts", "read_known_hosts"]

SSH_PORT = 22  # a host at this port has no port in its name
_ALIAS = re.compile(r"[^\s#][^\s]*").fullmatch


class HostKeys:
    """The host keys that the home has pinned, by alias, in its file ``host_keys``.

    An alias is an instance id, or ``host:port`` for a host that exists already. Several processes
    may pin at once; what is looked up comes from memory until the file has changed. Not synced to
    the disk: what a loss of power takes is pinned again at the next connection.
    """

    def __init__(self, home: Home) -> None:
        self._path = home.path / "host_keys"
        self._gate = home.path / "host_keys.lock"
        self._mutex = threading.Lock()  # taken after the file's lock, and never for long
        self._pinned: dict[str, tuple[str, ...]] = {}
        self._seen: tuple[int, ...] = ()  # what the file looked like when it was read
        self._end = 0  # bytes of the file in whole lines

    def get(self, alias: str) -> tuple[str, ...]:
        """The keys pinned for `alias`, as ``keytype base64``; none if it was never pinned.

        Blocks for no more than a look at the file's date, unless it has changed.

        Raises:
            HomeError: The file can't be read, or is damaged.
        """
        with self._mutex, reported(self._path):
            self._refresh()
            return self._pinned.get(alias, ())

    def pin(self, alias: str, keys: Iterable[str]) -> tuple[str, ...]:
        """Pin `keys` for `alias`, unless others are pinned already. Blocks.

        To change a pinned key, `forget` it first: of two that pin different keys at once, one has
        met an impostor, and must hear of it.

        Args:
            alias: An instance id or ``host:port``.
            keys: OpenSSH public key lines; comments are dropped.

        Returns:
            The keys that are pinned now.

        Raises:
            InvalidArgument: The alias or a key is not one.
            HomeError: The file can't be written, or is damaged.
        """
        return self.pin_all({alias: keys})[alias]

    def pin_all(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
        """`pin` for many aliases, written at once; the keys that are pinned now for each."""
        bare = {
            alias: tuple(dict.fromkeys(_bare_key(key) for key in keys))
            for alias, keys in wanted.items()
        }
        for alias, keys in bare.items():
            if not _ALIAS(alias):
                raise InvalidArgument(f"an alias must be a word, not {alias!r}")
            if not keys:
                raise InvalidArgument(f"{alias}: there is no host key to pin")
        with locked(self._gate), self._mutex, reported(self._path):
            self._refresh()
            new = {alias: keys for alias, keys in bare.items() if alias not in self._pinned}
            if new:
                lines = (f"{alias} {key}\n" for alias, keys in new.items() for key in keys)
                self._append("".join(lines).encode())
                self._pinned |= new
            return {alias: self._pinned[alias] for alias in bare}

    def forget(self, aliases: Iterable[str]) -> None:
        """Forget what is pinned for `aliases`; one that nothing is pinned for is no error. Blocks.

        Raises:
            HomeError: The file can't be written, or is damaged.
        """
        gone = set(aliases)
        with locked(self._gate), self._mutex, reported(self._path):
            self._refresh()
            if gone.isdisjoint(self._pinned):
                return
            kept = {alias: keys for alias, keys in self._pinned.items() if alias not in gone}
            lines = (f"{alias} {key}\n" for alias, keys in kept.items() for key in keys)
            replace(self._path, "".join(lines).encode(), 0o600)
            self._refresh()

    def _refresh(self) -> None:
        """Read the file if it is not what was read last."""
        try:
            if self._seen == _signature(self._path.stat()):
                return
            with self._path.open("rb") as file:
                seen = _signature(os.fstat(file.fileno()))  # before the content: never too new
                content = file.read()
        except FileNotFoundError:
            seen, content = (), b""
        end = content.rfind(b"\n") + 1  # beyond it is a line that is being written, or was cut off
        self._pinned = _parsed(self._path, content[:end].decode(errors="replace"))
        self._seen, self._end = seen, end

    def _append(self, content: bytes) -> None:
        """Add whole lines at the end; the lock is held and memory is up to date."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b") as file:  # noqa: PTH123 - a descriptor, not a path
            file.truncate(self._end)  # a line whose writer was killed in the middle of it
            file.seek(self._end)
            file.write(content)
            file.flush()
            self._seen = _signature(os.fstat(descriptor))
        self._end += len(content)


def _signature(info: os.stat_result) -> tuple[int, ...]:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _parsed(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    pinned: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        alias, _, key = line.partition(" ")
        try:
            pinned[alias] = (*pinned.get(alias, ()), _bare_key(key))
        except InvalidArgument:
            raise HomeError(
                path=str(path),
                problem=f"line {number} is damaged",
                mend=f"run: sed -i {number}d {shlex.quote(str(path))}",
            ) from None
    return pinned


def _bare_key(line: str) -> str:
    """The type and the base64 of an OpenSSH public key line.

    Raises:
        InvalidArgument: It is not one.
    """
    kind, encoded, *_ = [*line.split(None, 2), "", ""]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    # The blob begins with its own type, and its length before that: a key cut off still has it,
    # but base64 cut off is rarely base64.
    if not kind or blob[4 : 4 + len(kind)] != kind.encode():
        raise InvalidArgument(f"not an OpenSSH public key line: {line!r}")
    return f"{kind} {encoded}"


class _Entry(NamedTuple):
    line: int
    key: str
    revoked: bool


class KnownHosts:
    """What a ``known_hosts`` file says, in memory; made by `read_known_hosts`.

    Calling it with a host and a port returns the keys that the host is known by, in the order of
    the file, without those that a ``@revoked`` line names for it. As in OpenSSH a host at a port
    other than 22 is looked up as ``[host]:port``, and where nobody knows that, as ``host``.
    Certificate authorities (``@cert-authority``) are ignored, and so are lines that make no sense.
    """

    def __init__(self, text: str) -> None:
        self._exact: dict[str, list[_Entry]] = {}
        self._hashed: list[tuple[bytes, bytes, _Entry]] = []
        self._patterns: list[tuple[list[tuple[bool, re.Pattern[str]]], _Entry]] = []
        self._found: dict[tuple[str, int], list[_Entry]] = {}  # hashed names cost a digest a line
        for number, line in enumerate(text.split("\n")):
            self._add(number, line)

    def __call__(self, host: str, port: int = SSH_PORT) -> tuple[str, ...]:
        """The keys that the host is known by, as ``keytype base64``."""
        entries = self._entries(host, port)
        revoked = {entry.key for entry in entries if entry.revoked}
        return tuple(dict.fromkeys(entry.key for entry in entries if entry.key not in revoked))

    def revoked(self, host: str, port: int = SSH_PORT) -> tuple[str, ...]:
        """The keys that must not be taken from the host, wherever else they are named."""
        return tuple(
            dict.fromkeys(entry.key for entry in self._entries(host, port) if entry.revoked)
        )

    def _add(self, number: int, line: str) -> None:
        marker, names, rest = "", *_halved(line)
        if names.startswith("@"):
            marker, (names, rest) = names, _halved(rest)
        if names.startswith("#") or marker not in ("", "@revoked"):
            return
        try:
            entry = _Entry(number, _bare_key(rest), bool(marker))
        except InvalidArgument:
            return  # OpenSSH passes over what it can't read as well
        if names.startswith("|"):
            if salted := _hashed_name(names):
                self._hashed.append((*salted, entry))
            return
        patterns = names.lower().split(",")
        if any(char in names for char in "*?!"):
            self._patterns.append(([_pattern(one) for one in patterns if one], entry))
            return
        for name in patterns:
            self._exact.setdefault(name, []).append(entry)

    def _entries(self, host: str, port: int) -> list[_Entry]:
        asked = (host.lower(), port)
        if asked not in self._found:
            names = [asked[0]] if port == SSH_PORT else [f"[{asked[0]}]:{port}", asked[0]]
            self._found[asked] = next((found for name in names if (found := self._named(name))), [])
        return self._found[asked]

    def _named(self, name: str) -> list[_Entry]:
        found = list(self._exact.get(name, ()))
        found += (
            entry
            for salt, digest, entry in self._hashed
            if hmac.digest(salt, name.encode(), "sha1") == digest
        )
        found += (entry for patterns, entry in self._patterns if _matches(name, patterns))
        return sorted(found)


def read_known_hosts(path: Path) -> KnownHosts:
    """Read the OpenSSH ``known_hosts`` file at `path` once. Blocks.

    Raises:
        InvalidArgument: It can't be read.
    """
    try:
        return KnownHosts(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as exc:
        raise InvalidArgument(f"known_hosts {path} can't be read: {exc.strerror}") from exc


def _halved(line: str) -> tuple[str, str]:
    """The first word of `line`, and the rest."""
    first, *rest = line.split(None, 1) or [""]
    return first, "".join(rest)


def _hashed_name(name: str) -> tuple[bytes, bytes] | None:
    """Salt and digest of a hashed name, ``|1|salt|digest``."""
    parts = name.split("|")
    if len(parts) != 4 or parts[1] != "1":  # noqa: PLR2004 - "", "1", salt, digest
        return None
    try:
        return base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return None


def _pattern(text: str) -> tuple[bool, re.Pattern[str]]:
    """Whether a pattern of ``*`` and ``?`` is negated, and what it matches."""
    negated = text.startswith("!")
    wild = {"*": ".*", "?": "."}
    expression = "".join(wild.get(char) or re.escape(char) for char in text.removeprefix("!"))
    return negated, re.compile(expression, re.DOTALL)


def _matches(name: str, patterns: list[tuple[bool, re.Pattern[str]]]) -> bool:
    """Whether one of `patterns` takes `name`, and none that is negated does."""
    hits = [negated for negated, pattern in patterns if pattern.fullmatch(name)]
    return bool(hits) and not any(hits)
