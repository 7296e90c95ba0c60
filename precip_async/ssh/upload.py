"""Files and trees to an instance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from precip_async.shell import script
from precip_async.ssh import tree
from precip_async.ssh.transfer import Script, finish, local_trouble

if TYPE_CHECKING:
    from precip_async.limits import Limits
    from precip_async.ssh.command import Order
    from precip_async.ssh.conversation import Conversation
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.source import Source
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

_SCRIPTS = {False: _PUT_FILE, True: _PUT_TREE}  # by whether it is a tree


async def put(
    pool: Pool, target: Target, order: Order, limits: Limits, source: Source, remote: str
) -> int:
    """Copy the local `source`, a file or a tree, to `remote`, and return its bytes of content.

    An existing directory, or a trailing slash, means into it. A symlink named as `source` is
    followed; symlinks inside a tree are copied as links. Modes and times are kept, owners are not.

    Args:
        pool: Whose connection is used.
        target: Where to.
        order: As whom and for how long; its command is ours.
        limits: The graces.
        source: What; this is one of its users.
        remote: Where to, there; relative to the user's home directory.

    Raises:
        TransferError: It can't be read here or written there; what was there is as it was.
        RemoteError: See `converse`.

    If cancelled, nothing of it is left on the instance.
    """
    size = 0
    with local_trouble(target, source.path):
        async with source.content() as content:

            async def feed(talk: Conversation) -> None:
                nonlocal size
                size = await content.body.feed(talk)

            words = (remote, content.name, *content.words)
            text = replace(order, command=script(_SCRIPTS[content.is_tree], *words))
            await finish(pool, target, text, Script(order.mark), limits, feed, remote)
    return size
