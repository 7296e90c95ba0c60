"""Files and trees to an instance."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Self, cast

import anyio
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

# Where a copy of $2 goes that is to go to $1: as `cp -a` decides it. Nothing here may pass a name
# through $(...) as it is, which drops newlines at its end. What is temporary is $t, removed in the
# end whatever happens: who is ended is told so again and again, and where the connection is lost,
# so is standard error.
_PLACE = r"""
die() { echo "$2" >&2; exit "$1"; }
d=$1
case $d in '~/'*) d=${d#'~/'};; '~') d=.;; esac
case $d in /*) ;; *) d=$PWD/$d;; esac
case $d in */) [ -d "$d" ] || die 3 "there is no directory $d";; esac
if [ -d "$d" ]; then d=${d%/}/$2
elif [ -L "$d" ]; then d=$(readlink -f -- "$d" && echo .) && d=${d%??} || die 3 "$d leads nowhere"
fi
p=${d%/*}/
[ -d "$p" ] || die 3 "there is no directory $p"
umask 077
t=
trap 'trap "" HUP INT PIPE TERM; [ -z "$t" ] || rm -rf -- "$t"' EXIT
trap 'exit 1' HUP INT PIPE TERM
"""

# $1 target, $2 base name, $3 bytes, $4 mode, $5 time as touch wants it in UTC
_PUT_FILE = (
    _PLACE
    + r"""
[ ! -d "$d" ] || die 4 "$d is a directory"
[ ! -e "$d" ] || [ -f "$d" ] || die 4 "$d is there and is no file"
t=$(mktemp "${p}.precip.XXXXXXXX") || exit 1
cat >"$t" || exit 1
[ "$(wc -c <"$t")" -eq "$3" ] || die 1 "the file came only in part"
chmod "$4" "$t" && TZ=UTC0 touch -t "$5" "$t" && mv -f -- "$t" "$d"
"""
)

# $1 target, $2 base name. The tree comes under `content`; nothing is moved before all of it is
# there and fits. A symlink that is there is replaced, never followed. `m` and `u` are what `pack`
# calls for each directory; times are as they should be already where all was moved at once.
_PUT_TREE = (
    _PLACE
    + r"""
if [ -L "$d" ] || [ -e "$d" ]; then
  [ -d "$d" ] && [ ! -L "$d" ] || die 4 "$d is there and is no directory"
fi
t=$(mktemp -d "${p}.precip.XXXXXXXX") || exit 1
command -v tar >/dev/null || die 1 "there is no tar on the instance, which a tree needs"
tar -xpof - -C "$t" || exit 1
[ -e "$t/COMPLETE" ] || die 1 "the tree came only in part"
m() { chmod "$@" || exit 1; }
u() { :; }
if [ ! -d "$d" ] && mv -T -- "$t/content" "$d" 2>/dev/null; then
  cd -- "$d" && . "$t/COMPLETE"
  exit
fi
mkdir -p -- "$d" && cd -- "$t/content" || exit 1
find . -exec sh -c '
  d=$1; shift; bad=0
  for x do
    y=$d/$x is= was=
    [ -e "$y" ] || [ -L "$y" ] || continue
    [ -d "$x" ] && [ ! -L "$x" ] && is=1
    [ -d "$y" ] && [ ! -L "$y" ] && was=1
    case $is/$was in
      1/) echo "$y is there and is no directory" >&2; bad=4;;
      /1) echo "$y is a directory, and a file is to go there" >&2; bad=4;;
    esac
  done; exit $bad' sh "$d" {} + || exit 4
find . -type d -exec sh -c '
  d=$1; shift
  for x do
    if [ ! -d "$d/$x" ]; then mkdir -- "$d/$x"
    elif [ ! -w "$d/$x" ] || [ ! -x "$d/$x" ]; then chmod u+rwx "$d/$x"
    fi || exit 1
  done' sh "$d" {} + || exit 1
find . ! -type d -exec sh -c '
  d=$1; shift
  for x do
    [ ! -L "$d/$x" ] || rm -f -- "$d/$x" || exit 1
    mv -f -- "$x" "$d/$x" || exit 1
  done' sh "$d" {} + || exit 1
u() { TZ=UTC0 touch -t "$@" || exit 1; }
cd -- "$d" && . "$t/COMPLETE"
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
        base, sender = await anyio.to_thread.run_sync(_sender, source, limits.small_file)
        with sender:
            words = (remote, base, *sender.words)
            text = replace(order, command=script(sender.script, *words))
            talk = Script(order.mark)
            await finish(pool, target, text, talk, limits, sender.feed, remote)
    return sender.size


def _sender(source: Path, small: int) -> tuple[str, _FileSender | _TreeSender]:
    """The name that a copy of `source` has in a directory, and who sends it. Blocks."""
    status = source.stat()
    name = source.name if source.name not in ("", "..") else source.resolve().name or "root"
    if stat.S_ISDIR(status.st_mode):
        return name, _TreeSender(source)
    if not stat.S_ISREG(status.st_mode):  # opening a fifo would wait for who writes to it
        raise tree.TreeError(f"{source} is neither a file nor a directory")
    return name, _FileSender(source, small)


class _FileSender:
    """Feeds one file: a small one as it was read at once, else read as fast as it is taken."""

    script = _PUT_FILE

    def __init__(self, source: Path, small: int) -> None:
        self._file = source.open("rb")
        try:
            status = os.fstat(self._file.fileno())
            self._small: bytes | None = None
            self.size = status.st_size
            if self.size < small:  # also what has no size before it is read, in /proc
                self._small = self._file.read(small)
                self.size = len(self._small)
        except BaseException:
            self._file.close()
            raise
        mode = f"{stat.S_IMODE(status.st_mode) & 0o777:04o}"
        self.words = (str(self.size), mode, tree.touch_time(status.st_mtime))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    async def feed(self, talk: Conversation) -> None:
        """Send it, and its end."""
        if self._small is not None:
            taken = await send(talk, self._small)
        else:
            taken = await self._feed(talk)
        if taken and talk.channel is not None:
            talk.channel.write_eof()

    async def _feed(self, talk: Conversation) -> bool:
        left = self.size  # exactly what was announced: the file may grow meanwhile
        while left:
            data = await anyio.to_thread.run_sync(self._file.read, min(left, CHUNK))
            if not data:
                break  # it has shrunk: the other end sees that some is missing
            left -= len(data)
            if not await send(talk, data):
                return False
        return True


class _TreeSender:
    """Feeds a tree, packed in a thread as fast as it is taken."""

    script = _PUT_TREE
    words = ()

    def __init__(self, source: Path) -> None:
        self._source, self.size = source, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """There is nothing to close."""

    async def feed(self, talk: Conversation) -> None:
        """Send it, and its end."""
        writer = cast("BinaryIO", _ToLoop(talk))
        # A thread of its own: a slow instance would keep one that all share.
        own = anyio.CapacityLimiter(1)
        try:
            self.size = await anyio.to_thread.run_sync(tree.pack, self._source, writer, limiter=own)
        except _Stopped:
            return
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
