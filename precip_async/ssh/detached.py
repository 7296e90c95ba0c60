"""Commands that outlive our connection, on one instance: begun once, read on, and ended.

Each has a directory of its own in its user's home, open to that user alone::

    ~/.precip-jobs/<id>/   about   what it is: a line of JSON, ours
                           began   its process group, and when it began
                           stdout, stderr
                           status  how it ended, and when; there once it has
                           note    what the shell says that waits for it
                           reserve room for the status on a disk that is full by then

Making the directory is what can be done only once. The id is the mark of the run as well, in the
environment of all its processes. Nothing here needs more than ``sh`` and what comes with it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from precip_async.errors import ConnectionLost, RemoteError, TransferError
from precip_async.shell import MARK, script
from precip_async.ssh.command import Order, converse, end_run
from precip_async.ssh.conversation import Conversation

if TYPE_CHECKING:
    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["Ended", "Found", "Offsets", "Piece", "Site", "starting"]

Offsets = tuple[int, int]  # bytes of stdout and of stderr

DIRECTORY: Final = "$HOME/.precip-jobs"
PIECE: Final = 1024 * 1024  # bytes of a stream that are asked for at once
WORDS: Final = 4 * 1024 * 1024  # bytes of anything else
SWIFT: Final = 60.0  # seconds for what takes some hundredths
NOT_BEGUN: Final = 74  # the exit code of `_BEGIN` where it is not known to have begun
LOOKS: Final = 5  # a second, at what a command has written


def _one_line(text: str) -> str:
    """A script as csh can hand it on: it knows no quoted line ends, so that it has none."""
    return " ".join(text.split())


_ID: Final = r"[0-9a-f]{16}"
_HEAD = re.compile(
    rb"P (\d{1,18}) (\d{1,18}) (more|lost|short|over (-?\d{1,5}) (\d{1,12}) ?(full)?)\n"
)
_FOUND = re.compile(
    rf"J ({_ID}):(\d{{1,9}}) (\d{{1,12}}):(?:(-?\d{{1,5}}) (\d{{1,12}}) ?(full)?)?:(.*)"
)

# None of the scripts has an exclamation mark: csh would not hand it on either.
# $1 the directory, $2 the command, which the user's shell reads. Only a shell that waits for it in
# the foreground says when a signal has ended it, and not its own exit code, for which 128 and more
# are free as well; it says so in the note. It outlives TERM in order to tell what came of it.
_KEEP: Final = _one_line(
    """
    d=$1; trap : HUP INT TERM;
    echo "$$ $(date +%s)" >"$d/began.new" && mv "$d/began.new" "$d/began" || exit; : >"$d/note";
    ( exec "${SHELL:-/bin/sh}" -c "$2" >>"$d/stdout" 2>>"$d/stderr" ); r=$?;
    if [ $r -gt 128 ] && [ -s "$d/note" ]; then r=$((128 - r)); fi;
    f=; head -c 4096 /dev/zero >"$d/room" || f=full; rm -f "$d/room" "$d/reserve"; i=0;
    until echo "$r $(date +%s) $f" >"$d/status.new" && mv "$d/status.new" "$d/status"; do
    [ $i -lt 600 ] || exit; i=$((i + 1)); sleep 1; done
    """
)
# $1 the id, $2 what it is, $3 the command, $4 the script above. Asked again, it does nothing anew.
# What a shell has in the background hears no interrupt: where `setsid` can fork, it is left to it.
_BEGIN: Final = _one_line(
    f"""
    j={DIRECTORY}; d=$j/$1; u=$(umask); umask 077; mkdir -p "$j" || exit 73;
    if mkdir "$d" 2>/dev/null; then
    if printf "%s\\n" "$2" >"$d/about" && : >"$d/stdout" && : >"$d/stderr" &&
    head -c 8192 /dev/zero >"$d/reserve"; then :; else rm -rf "$d"; exit 73; fi;
    s=; if setsid -f true 2>/dev/null; then s="setsid -f";
    elif command -v setsid >/dev/null; then s=setsid; fi;
    b() {{ umask "$u"; trap "" HUP; {MARK}=$1; export {MARK};
    exec $s sh -c "$4" precip-job "$d" "$3" </dev/null >/dev/null 2>"$d/note"; }};
    case $s in *-f) ( b "$@" );; *) b "$@" & esac;
    elif [ -d "$d" ]; then :; else mkdir "$d"; exit 73; fi; i=0;
    until [ -s "$d/began" ]; do
    if [ $i -ge 600 ] || {{ [ $i -ge 100 ] && [ -s "$d/note" ]; }}; then
    cat "$d/note" >&2; exit 74; fi;
    i=$((i + 1)); sleep 0.05 2>/dev/null || sleep 1; done; cat "$d/began"
    """
)
# Whether $p is the shell that waits for the command $1.
_ALIVE: Final = f"""
    k() {{ kill -0 "$p" 2>/dev/null || return 1; [ -d /proc/self ] || return 0;
    grep -qs "{MARK}=$1" "/proc/$p/environ"; }};
"""
# $1 the id, $2 and $3 how much one has of either stream, $4 looks to be patient for, $5 the most of
# a stream. Says how many bytes follow on either, and how it stands: an end counts once nothing of
# what was written before it is left to be sent.
_READ: Final = _one_line(
    f"""
    cd "{DIRECTORY}/$1" 2>/dev/null || exit 66; p=; read -r p _ <began || exit 66; j=$1;
    w() {{ set -- $(ls -ln "$1"); n=$5; }};
    {_ALIVE}
    i=0; m=; l=;
    while :; do
    e=; if [ -s status ]; then read -r e <status; fi;
    w stdout; a=$((n - $2)); w stderr; b=$((n - $3));
    if [ $a -lt 0 ] || [ $b -lt 0 ]; then echo "P 0 0 short"; exit; fi;
    [ -z "$e" ] || break;
    if [ $((a + b)) -gt 0 ]; then
    if [ -n "$m" ] || [ $((a + b)) -gt 65536 ]; then break; fi; m=1;
    else if k "$j"; then :; else [ -s status ] || l=1; [ -n "$l" ] && break; continue; fi;
    [ $i -lt "$4" ] || break; fi;
    i=$((i + 1)); sleep 0.2 2>/dev/null || sleep 1; done;
    s=more; if [ -n "$e" ]; then s="over $e"; fi; if [ -n "$l" ]; then s=lost; fi;
    if [ $a -gt "$5" ]; then a=$5; s=more; fi; if [ $b -gt "$5" ]; then b=$5; s=more; fi;
    echo "P $a $b $s"; if [ $a -gt 0 ]; then tail -c +$(($2 + 1)) stdout | head -c $a; fi;
    if [ $b -gt 0 ]; then tail -c +$(($3 + 1)) stderr | head -c $b >&2; fi; exit 0
    """
)
# $1 what an experiment is called, as it stands in what is said of each.
_LIST: Final = _one_line(
    f"""
    cd "{DIRECTORY}" 2>/dev/null || exit 0; for d in *; do
    [ -s "$d/began" ] && grep -qsF -e "$1" "$d/about" || continue; b=; read -r b <"$d/began"; s=;
    if [ -s "$d/status" ]; then read -r s <"$d/status"; fi;
    printf "J %s:%s:%s:" "$d" "$b" "$s"; cat "$d/about"; done
    """
)
# $1 the id. Says the process group while the shell lives that leads it and waits for the command:
# later, or after a reboot, somebody else may have its number.
_GROUP: Final = _one_line(
    f"""
    cd "{DIRECTORY}/$1" || exit 66; p=; read -r p _ <began || exit 66; {_ALIVE}
    if k "$1"; then echo "$p"; else echo 0; fi
    """
)
# $1 the id, of which nothing runs any more: by KILL, if it could not say itself.
_CLOSE: Final = _one_line(
    f"""
    cd "{DIRECTORY}/$1" || exit 66; rm -f reserve; [ -s status ] ||
    {{ echo "-9 $(date +%s)" >status.new && mv status.new status; }}
    """
)
_REMOVE: Final = f'rm -rf "{DIRECTORY}/$1"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command has ended.

    Attributes:
        exit_code: Minus a signal's number where one has ended it.
        at: When, by the instance's clock: seconds since the epoch.
        full: Whether the disk was full then, so that output may be missing.
    """

    exit_code: int
    at: int
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a command has written since, and how it stands.

    Attributes:
        data: What follows on either stream.
        ended: That it has, with nothing left to be read.
        lost: That it is gone, and nobody knows how it ended.
    """

    data: dict[Stream, bytes]
    ended: Ended | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A command that is, or was, on an instance: what was written down of it there."""

    id: str
    group: int
    began: int
    about: dict[str, Any]
    ended: Ended | None = None


def starting(job_id: str, about: dict[str, Any], command: str) -> str:
    """The command line that begins `command`, once, however often it is run."""
    return script(_BEGIN, job_id, json.dumps(about), command, _KEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One user's account on one instance.

    Attributes:
        order: As whom commands run there; what it says beside that does not count.
    """

    pool: Pool
    target: Target
    order: Order
    limits: Limits

    async def begin(self, order: Order) -> tuple[int, int]:
        """Run what `starting` says; the process group, and when it began, by the clock there.

        Raises:
            RemoteError: It was not started, or, as `ConnectionLost`, nobody knows.
        """
        order = replace(order, lasting=True, timeout=SWIFT)
        said = await self._said(order)
        words = said.texts["stdout"].split()
        if said.exit_code == NOT_BEGUN and not said.texts["stderr"]:
            raise self._problem(
                "it had not begun half a minute after it was asked to: when it does so yet, "
                "started() finds it"
            )
        if said.exit_code or len(words) < 2 or not all(word.isdigit() for word in words[:2]):  # noqa: PLR2004 - the two
            raise self._problem(f"it could not be started: {said.error}")
        return int(words[0]), int(words[1])

    async def found(self, experiment: str) -> list[Found]:
        """All that there are of an experiment, in no order."""
        said = await self._ask(script(_LIST, f'"experiment": {json.dumps(experiment)}'))
        lines = said.texts["stdout"].decode(errors="replace").splitlines()
        return [one for line in lines if (one := _found(line)) is not None]

    async def read(self, job_id: str, offsets: Offsets, patience: float) -> Piece:
        """What has come behind `offsets`, waited for up to `patience` seconds.

        Raises:
            TransferError: What is there does not go with `offsets`, or with what was said of it.
        """
        looks = str(round(patience * LOOKS))
        line = script(_READ, job_id, *map(str, offsets), looks, str(PIECE))
        said = await self._ask(line, timeout=patience + SWIFT, most=PIECE + 100)
        out, err = bytes(said.texts["stdout"]), bytes(said.texts["stderr"])
        head = _HEAD.match(out)
        if said.exit_code or head is None:
            raise self._problem(f"the output of {job_id} can't be read there: {said.error}")
        out = out[head.end() :]
        state = head[3].decode()
        if state == "short":
            raise TransferError(
                **self._place,
                problem=f"the output of {job_id} is shorter than the {offsets} bytes that were had "
                "of it: somebody has cut it off there",
            )
        if (len(out), len(err)) != (int(head[1]), int(head[2])):
            raise TransferError(
                **self._place,
                problem=f"{int(head[1])} and {int(head[2])} bytes of the output of {job_id} were "
                f"to follow, and {len(out)} and {len(err)} came",
            )
        ended = None
        if head[4] is not None:
            ended = Ended(exit_code=int(head[4]), at=int(head[5]), full=head[6] is not None)
        return Piece(data={"stdout": out, "stderr": err}, ended=ended, lost=state == "lost")

    async def end(self, job_id: str) -> str:
        """End a command and all that came of it, verified; what is left of it, in words."""
        order = replace(self.order, mark=job_id)
        said = await self._ask(script(_GROUP, job_id))
        group = bytes(said.texts["stdout"]).strip()
        if said.exit_code or not group.isdigit():
            raise self._problem(f"what runs of {job_id} can't be told: {said.error}")
        left = await end_run(self.pool, self.target, order, int(group), self.limits)
        if not left:
            said = await self._ask(script(_CLOSE, job_id))
            if said.exit_code:
                raise self._problem(
                    f"{job_id} was ended, and it can't be noted there: {said.error}"
                )
        return left

    async def remove(self, job_id: str) -> None:
        """Remove all that is kept of a command that has ended."""
        said = await self._ask(script(_REMOVE, job_id))
        if said.exit_code:
            raise self._problem(f"what is kept of {job_id} can't be removed: {said.error}")

    async def _ask(self, line: str, *, timeout: float = SWIFT, most: int = WORDS) -> _Said:
        order = replace(
            self.order, command=line, timeout=timeout, mark=Order(command="", user="").mark
        )
        return await self._said(order, most)

    async def _said(self, order: Order, most: int = WORDS) -> _Said:
        """What a line of ours says.

        Raises:
            RemoteError: It can't be run, says too much, or does not end.
        """
        said = _Said(order.mark, most)
        endless = f"it sent more than the {most} bytes that it was asked for"
        try:
            left = await converse(self.pool, self.target, order, said, self.limits, None)
        except ConnectionLost as error:
            if said.too_much:
                raise self._problem(endless) from error
            raise
        if said.too_much:
            raise self._problem(endless)
        if left is not None:
            raise self._problem(f"a short command did not end there within {order.timeout:g} s")
        return said

    @property
    def _place(self) -> dict[str, str]:
        return {"instance_id": self.target.instance_id, "host": self.target.host}

    def _problem(self, problem: str) -> RemoteError:
        return RemoteError(**self._place, problem=problem)


class _Said(Conversation):
    """Keeps both streams of a line of ours, up to a bound each."""

    def __init__(self, mark: str, most: int) -> None:
        super().__init__(mark)
        self.texts: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.too_much = False
        self._most = most

    def output(self, stream: Stream, data: bytes) -> None:
        """Keep it; of one that goes on and on hear no more."""
        if len(self.texts[stream]) + len(data) > self._most:
            self.too_much = True
            if self.channel is not None:
                self.channel.close()
        else:
            self.texts[stream] += data

    @property
    def error(self) -> str:
        """Why it failed, in its own words."""
        said = self.texts["stderr"][-1000:].decode(errors="replace").strip()
        return said or f"exit code {self.exit_code}"


def _found(line: str) -> Found | None:
    """What a line says of a command; ``None``: nothing that we would have written."""
    match = _FOUND.fullmatch(line)
    if match is None:
        return None
    try:
        about = json.loads(match[7])
    except ValueError:
        return None
    names = ("run", "name", "experiment", "instance", "command", "user", "at")
    if not isinstance(about, dict) or not all(isinstance(about.get(one), str) for one in names):
        return None
    try:
        about["at"] = datetime.fromisoformat(about["at"]).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return None
    ended = None
    if match[4] is not None:
        ended = Ended(exit_code=int(match[4]), at=int(match[5]), full=match[6] is not None)
    return Found(id=match[1], group=int(match[2]), began=int(match[3]), about=about, ended=ended)
