"""Files and trees to an instance."""

from __future__ import annotations

import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, cast

import anyio.from_thread
import anyio.to_thread

from precip_async.shell import script
from precip_async.ssh import tree
from precip_async.ssh.conversation import CHUNK, Conversation, send
from precip_async.ssh.transfer import Script, finish, local_trouble

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.ssh.command import Order
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["put"]

# Where a copy of $2 goes that is to go to $1: as `cp -a` decides it.
_PLACE = r"""
die() { echo "$2" >&2; exit "$1"; }
d=$1
case $d in '~/'*) d=${d#'~/'};; '~') d=.;; esac
case $d in -*) d=./$d;; esac
case $d in */) [ -d "$d" ] || die 3 "there is no directory $d";; esac
if [ -d "$d" ]; then d=${d%/}/$2; else [ -L "$d" ] && d=$(readlink -f -- "$d"); fi
p=$(dirname -- "$d")
[ -d "$p" ] || die 3 "there is no directory $p"
umask 077
"""

# $1 target, $2 base name, $3 bytes, $4 mode, $5 time as touch wants it in UTC
_PUT_FILE = (
    _PLACE
    + r"""
[ ! -d "$d" ] || die 4 "$d is a directory"
t=$(mktemp "$p/.precip.XXXXXXXX") || exit 1
trap 'rm -f -- "$t"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$t" || exit 1
[ "$(wc -c <"$t")" -eq "$3" ] || die 1 "the file came only in part"
chmod "$4" "$t" && TZ=UTC0 touch -t "$5" "$t" && mv -f -- "$t" "$d"
"""
)

# $1 target, $2 base name. The tree comes under `content`; nothing is moved before all of it is
# there and fits. Says where it is, at last.
_PUT_TREE = (
    _PLACE
    + r"""
[ ! -e "$d" ] || [ -d "$d" ] || die 4 "$d is there and is no directory"
s=$(mktemp -d "$p/.precip.XXXXXXXX") || exit 1
trap 'rm -rf -- "$s"' EXIT
trap 'exit 1' HUP INT TERM
command -v tar >/dev/null || die 1 "there is no tar on the instance, which a tree needs"
tar -xpof - -C "$s" || exit 1
[ -e "$s/COMPLETE" ] || die 1 "the tree came only in part"
if [ ! -d "$d" ]; then mv -- "$s/content" "$d" && printf %s "$d"; exit; fi
case $d in /*) ;; *) d=$PWD/$d;; esac
cd "$s/content" || exit 1
find . -exec sh -c '
  d=$1; shift; bad=0
  for x do
    y=$d/$x
    if [ -d "$x" ] && [ ! -L "$x" ]; then
      [ -d "$y" ] || { [ ! -e "$y" ] && [ ! -L "$y" ]; } ||
        { echo "$y is there and is no directory" >&2; bad=4; }
    elif [ -d "$y" ] && [ ! -L "$y" ]; then
      echo "$y is a directory, and a file is to go there" >&2; bad=4
    fi
  done; exit $bad' sh "$d" {} + || exit 4
find . -type d -exec sh -c '
  d=$1; shift
  for x do [ -d "$d/$x" ] || mkdir -- "$d/$x" || exit 1; done' sh "$d" {} + || exit 1
find . ! -type d -exec sh -c '
  d=$1; shift
  for x do mv -f -- "$x" "$d/$x" || exit 1; done' sh "$d" {} + || exit 1
find . -depth -type d -exec sh -c '
  d=$1; shift
  for x do chmod "$(stat -c %a -- "$x")" "$d/$x" && touch -r "$x" "$d/$x" || exit 1
  done' sh "$d" {} + || exit 1
printf %s "$d"
"""
).replace("COMPLETE", tree.COMPLETE)


async def put(
    pool: Pool, target: Target, order: Order, limits: Limits, source: Path, remote: str
) -> int:
    """Copy the local `source`, a file or a tree, to `remote`, and return its bytes of content.

    An existing directory, or a trailing slash, means into it. A symlink named as `source` is
    followed; symlinks inside a tree are copied as links. Modes and times are kept, owners are not.

    Args:
        pool: Whose connection is used.
        target: Where to.
        order: As whom and for how long; its command is ours.
        limits: The graces.
        source: What.
        remote: Where to, there; relative to the user's home directory.

    Raises:
        TransferError: It can't be read here or written there; what was there is as it was.
        RemoteError: See `converse`.

    If cancelled, nothing of it is left on the instance.
    """
    with local_trouble(target, source):
        status = await anyio.to_thread.run_sync(source.stat)
        is_tree = stat.S_ISDIR(status.st_mode)
        base = (await anyio.to_thread.run_sync(source.resolve)).name
        if is_tree:
            sender: _FileSender | _TreeSender = _TreeSender(source)
            text = script(_PUT_TREE, remote, base)
        else:
            when = time.strftime("%Y%m%d%H%M.%S", time.gmtime(max(0, status.st_mtime)))
            mode = f"{stat.S_IMODE(status.st_mode) & 0o777:04o}"
            sender = _FileSender(source, status.st_size)
            text = script(_PUT_FILE, remote, base, str(status.st_size), mode, when)
        talk = Script(order.mark)
        await finish(pool, target, replace(order, command=text), talk, limits, sender.feed, remote)
        if isinstance(sender, _TreeSender) and sender.mend:
            where = talk.answer.decode(errors="surrogateescape")
            await _mend(pool, target, order, limits, sender.mend, where)
    return sender.size


class _FileSender:
    """Feeds one file, read as fast as it is taken."""

    def __init__(self, source: Path, size: int) -> None:
        self._source, self.size = source, size

    async def feed(self, talk: Conversation) -> None:
        left = self.size  # exactly what was announced: the file may grow meanwhile
        file = await anyio.to_thread.run_sync(lambda: self._source.open("rb"))
        with file:
            while left:
                data = await anyio.to_thread.run_sync(file.read, min(left, CHUNK))
                if not data:
                    break  # it has shrunk: the other end sees that some is missing
                left -= len(data)
                if not await send(talk, data):
                    return
        if talk.channel is not None:
            talk.channel.write_eof()


class _TreeSender:
    """Feeds a tree, packed in a thread as fast as it is taken."""

    def __init__(self, source: Path) -> None:
        self._source, self.size = source, 0
        self.mend: list[tuple[int, str]] = []

    async def feed(self, talk: Conversation) -> None:
        writer = cast("BinaryIO", _ToLoop(talk))
        try:
            packed = await anyio.to_thread.run_sync(tree.pack, self._source, writer)
        except _Stopped:
            return
        self.size, self.mend = packed
        if talk.channel is not None:
            talk.channel.write_eof()


class _Stopped(Exception):
    """Nobody takes the rest."""


class _ToLoop:
    """A file for a thread to write to, whose content a conversation sends."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk

    def write(self, data: bytes) -> int:
        if not anyio.from_thread.run(send, self._talk, data):
            raise _Stopped
        return len(data)


async def _mend(
    pool: Pool, target: Target, order: Order, limits: Limits, mend: list[tuple[int, str]], top: str
) -> None:
    """Set the modes of directories that their owner can't enter, now that all is in them."""
    words = [word for mode, name in mend for word in (f"{mode:04o}", f"./{name}")]
    text = script(
        'cd -- "$1" && shift && while [ $# -gt 1 ]; do chmod "$1" "$2" || exit; shift 2; done',
        *(top, *words),
    )
    mark = f"{order.mark}m"  # another run, which is to be told from the first
    talk = Script(mark)
    await finish(pool, target, replace(order, command=text, mark=mark), talk, limits, None, top)
