"""Command lines: how a command, its environment and its mark are put for a remote shell to read.

sshd hands one string to the user's login shell. Ours is one ``exec sh -c`` of a constant script
whose facts are arguments, each quoted once, so that nothing has to be quoted twice and any shell
that knows single quotes can read it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MARK", "command_line", "ending_line", "join", "quote", "script"]

MARK = "PRECIP_RUN"  # the variable whose value names one run, in every process of it
LONGEST_LINE = 127 * 1024  # Linux takes no argument over 128 KiB (MAX_ARG_STRLEN); some room left

_SAFE = re.compile(r"[A-Za-z0-9@%+=:,./_-]+").fullmatch
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch

# $0 the mark's value, $1 the directory, then NAME=value pairs, last the command. The line that is
# printed tells the process group: sshd starts each command as the leader of a session, and `exec`
# keeps the process, so that ending the group ends the command. It opens both streams, as what comes
# on one says nothing about the other. SHLVL: bash would take itself for a login by ssh, once more,
# and read ~/.bashrc a second time. The third word is the boot in which that group is this one. All
# this comes before the pairs, which may bear any name, as may what the login has exported.
_START = (
    "precip_b=; { read -r precip_b </proc/sys/kernel/random/boot_id; } 2>/dev/null; "
    'h() { printf "\\002%s %s %s\\n" "$0" "$precip_g" "$precip_b"; }; h; h >&2; '
    'if [ -n "$1" ]; then cd -- "$1" || exit; fi; '
    'shift; while [ $# -gt 1 ]; do export "$1"; shift; done; export SHLVL=2; '
    'exec "${SHELL:-/bin/sh}" -c "$1"'
)
_OWN_GROUP = "precip_g=$$; "
_NO_INPUT = " </dev/null"
# sudo stays where the user who logged in was; the group is its own, where it can be read; and who
# may not log in has a shell that runs nothing.
_AFTER_SUDO = (
    "cd 2>/dev/null; { read -r _ _ _ _ precip_g _ </proc/$$/stat; } 2>/dev/null; "
    "case $SHELL in */nologin|*/false) SHELL=/bin/sh;; esac; "
)

# Ends what bears the mark: $0 its value, $1 the process group (0: not known), $2 tenths of a second
# between TERM and KILL, $3 the boot in which that was the group (empty: this one): after another
# somebody else may have its number, and is spared. What counts: the group and session, whoever has
# the mark in the environment or the arguments it was started with, and the children of all these;
# [=] keeps `grep` from finding itself. Never this script, nor what it descends from, nor a group
# that is not one: in containers half of the machine may be in session 0. Prints what is left, if
# anything.
_END = r"""
m=$0 g=$1 n=$2 i=0 b= told=' ' left= proc= safe=" $$ 1 0 " a=$$
[ "$g" -gt 1 ] 2>/dev/null || g=none
{ read -r b </proc/sys/kernel/random/boot_id; } 2>/dev/null
[ -z "$3" ] || [ "$b" = "$3" ] || g=none
[ -d /proc/self ] && proc=1
table() {
  if [ -n "$proc" ]; then
    for f in /proc/[0-9]*/stat; do
      { read -r l <"$f"; } 2>/dev/null || continue
      set -- ${l##*) }
      case $1 in Z|X) ;; *) echo "${l%% *} $2 $3 $4";; esac
    done
  else
    ps -A -o stat= -o pid= -o ppid= -o pgid= | while read -r s p q r; do
      case $s in Z*) ;; *) echo "$p $q $r $r";; esac
    done
  fi
}
marked() {
  if [ -n "$proc" ]; then
    grep -ls "@MARK@[=]$m" /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null |
      while IFS=/ read -r _ _ p _; do echo "$p"; done
  else
    ps axeww -o pid= -o command= | grep "@MARK@[=]$m" | while read -r p _; do echo "$p"; done
  fi
}
look() {
  them=' ' left=
  for p in $(marked); do
    case $safe in *" $p "*) ;; *) them="$them$p ";; esac
  done
  all=$(table)
  more=1
  while [ -n "$more" ]; do
    more=
    while read -r p q r s; do
      case $safe$them in *" $p "*) continue;; esac
      [ "$r" = "$g" ] || [ "$s" = "$g" ] || case $them in *" $q "*) ;; *) continue;; esac
      them="$them$p " more=1
    done <<E
$all
E
  done
  while read -r p _; do
    case $them in *" $p "*) left="$left $p";; esac
  done <<E
$all
E
}
all=$(table)
while [ -n "$a" ]; do
  b=$a a=
  while read -r p q _; do
    if [ "$p" = "$b" ]; then a=$q safe="$safe$q "; fi
  done <<E
$all
E
done
while look; [ -n "$left" ]; do
  [ $i -ge $((n + 30)) ] && { echo $left; exit 9; }
  if [ $i -ge $n ]; then
    kill -KILL $left 2>/dev/null
  else
    for p in $left; do
      case $told in *" $p "*) continue;; esac
      told="$told$p "
      kill -TERM $p 2>/dev/null
      kill -CONT $p 2>/dev/null
    done
  fi
  if [ $i -gt 0 ]; then pause=0.1; else pause=0.02; fi  # most go at once
  i=$((i + 1))
  sleep $pause 2>/dev/null || sleep 1
done
exit 0
""".replace("@MARK@", MARK)


def quote(text: str) -> str:
    """`text` as one word of a POSIX shell."""
    return text if _SAFE(text) else "'" + text.replace("'", "'\\''") + "'"


def join(*words: str) -> str:
    """`words` as a command line of a POSIX shell, each quoted."""
    return " ".join(map(quote, words))


def script(text: str, *arguments: str) -> str:
    """A command line that runs `text` by ``sh``, with `arguments` as ``$1``, ``$2``, …."""
    return join("exec", "sh", "-c", text, "precip", *arguments)


def command_line(
    command: str,
    *,
    mark: str,
    env: Mapping[str, str],
    cwd: str | None = None,
    sudo_user: str | None = None,
    stdin: bool = False,
) -> str:
    """What sshd is asked to run so that the login shell reads `command`.

    The first line on either stream is the byte 2, `mark`, a space, the process group's id, a space
    and what the kernel calls its boot; what a login shell's start files print comes before it.

    Args:
        command: Read by the user's login shell, unchanged.
        mark: Names the run; see `MARK`.
        env: Set before the command, whatever sshd accepts.
        cwd: Where it runs; ``None``: the home directory.
        sudo_user: The user to become by ``sudo -n``; ``None``: stay who logged in.
        stdin: Whether standard input is connected; otherwise it is empty.

    Raises:
        InvalidArgument: A NUL byte, a bad variable name, or a line longer than Linux takes.
    """
    for name in env:
        if not _NAME(name):
            raise InvalidArgument(f"{name!r} can't be the name of an environment variable")
    pairs = [f"{name}={value}" for name, value in env.items()]
    facts = join(mark, cwd or "", f"{MARK}={mark}", *pairs, command)
    line = f"{_starting(sudo_user, stdin)} {facts}"
    if "\0" in line:
        raise InvalidArgument("a command, its directory and its environment can't hold a NUL byte")
    try:
        length = len(line.encode(errors="surrogateescape"))
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a command can't hold {error.object[error.start]!r}") from error
    if length > LONGEST_LINE:
        raise InvalidArgument(
            f"a command with its environment can't be longer than {LONGEST_LINE} bytes; "
            "put it in a file and use copy_and_run"
        )
    return line


@lru_cache(maxsize=64)
def _starting(sudo_user: str | None, stdin: bool) -> str:
    """What comes before the facts."""
    begin = _OWN_GROUP if sudo_user is None else _OWN_GROUP + _AFTER_SUDO
    start = begin + _START + ("" if stdin else _NO_INPUT)
    return join("exec", *_becoming(sudo_user), "sh", "-c", start)


def ending_line(
    mark: str, group: int, grace: float, *, boot: str = "", sudo_user: str | None = None
) -> str:
    """What ends the run that bears `mark`: TERM, after `grace` seconds KILL, then a look.

    Where it does not run in `boot` any more, no process is taken for one of its `group`.
    It exits with 0 when nothing of the run is left, else with 9 and prints the process ids.
    """
    tenths = str(max(1, round(grace * 10)))
    return join("exec", *_becoming(sudo_user), "sh", "-c", _END, mark, str(group), tenths, boot)


def _becoming(user: str | None) -> tuple[str, ...]:
    return () if user is None else ("sudo", "-n", "-H", "-u", user, "--")
