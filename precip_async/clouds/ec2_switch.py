"""The dead-man's switch of an instance: what its user data starts, and what puts its end off. Pure.

A process of root's counts the seconds down by the kernel's clock, which nobody sets, and writes
down what is left, so that a reboot goes on from there. It is started by ``bootcmd``, at every boot
and before anything else of the user's; at the end it powers the instance off, which the launch has
said is its end. An instance's own clock has no say: until it is set it may be wrong by decades.
"""

from __future__ import annotations

import json
import math
from typing import Final

from precip_async.clouds.base import CLOUD_INIT_STATE
from precip_async.shell import script

__all__ = ["counting", "renewing", "seconds_of", "switched"]

NAME: Final = "precip-lifetime"  # of the process, and of the directory that it keeps
# Of one instance: cloud-init's directory is another one when an image is made of the disk.
STATE: Final = "/var/lib/cloud/instance"
NOT_THERE: Final = 72  # the exit code of `renewing` where nothing counts
DEAF: Final = 74  # likewise, where it does not answer

# $1 the seconds at the first boot, $2 the directory. It returns when they are over. Whoever wants
# them to be more writes that into `more` and wakes it with USR1; what it has taken is gone. On a
# full disk it goes on, and only a reboot would then find more left than there is.
_COUNT: Final = r"""
left=$1
mkdir -p "$2" && cd "$2" || exit
{ read -r known <left; } 2>/dev/null
case $known in ''|*[!0-9]*) ;; *) left=$known;; esac
trap : USR1
echo $$ >counter
while [ "$left" -gt 0 ]; do
  pause=5
  [ "$left" -ge 5 ] || pause=$left
  read -r now _ </proc/uptime
  was=${now%.*}
  echo "$left" >left.new && mv left.new left
  sleep "$pause" &
  wait $!
  read -r now _ </proc/uptime
  left=$((left - ${now%.*} + was))
  if mv more taken; then
    read -r more <taken
    case $more in ''|*[!0-9]*) ;; *) [ "$more" -le "$left" ] || left=$more;; esac
    rm -f taken
  fi
done 2>/dev/null
"""
_OFF: Final = "shutdown -P now || poweroff || poweroff -f || poweroff -ff"
# $1 what counts and then ends the instance, and then that one's own arguments.
_START: Final = (
    "s=; command -v setsid >/dev/null && s=setsid; "
    '$s sh -c "$1" "$0" "$2" "$3" </dev/null >/dev/null 2>&1 &'
)
# $1 the seconds. On one line and without an exclamation mark, so that csh can hand it on.
_RENEW: Final = (
    f"d=${{{CLOUD_INIT_STATE}:-{STATE}}}/{NAME}; n=$1; i=0; umask 077; "
    f'cd "$d" 2>/dev/null || exit {NOT_THERE}; read -r p <counter || exit {NOT_THERE}; '
    f'grep -qs {NAME} "/proc/$p/cmdline" || exit {NOT_THERE}; '
    'echo "$n" >more.new && mv more.new more || exit; '
    'kill -USR1 "$p"; '
    f"while [ -e more ]; do [ $i -lt 100 ] || exit {DEAF}; i=$((i + 1)); "
    "sleep 0.1 2>/dev/null || sleep 1; done"
)


def switched(lifetime: float) -> list[str]:
    """The lines of a cloud-config by which an instance ends itself after `lifetime` seconds."""
    argv = ["sh", "-c", _START, NAME, f"{_COUNT}{_OFF}", _whole(lifetime), f"{STATE}/{NAME}"]
    return ["bootcmd:", f"  - {json.dumps(argv)}"]


def seconds_of(cloud_config: str) -> int | None:
    """The lifetime that `cloud_config` gives an instance; ``None``: none.

    Only lines that `switched` has written are understood.
    """
    for line in cloud_config.splitlines():
        if line.startswith("  - [") and f'"{NAME}"' in line:
            return int(json.loads(line.removeprefix("  - "))[-2])
    return None


def counting(lifetime: float) -> str:
    """A script that returns when an instance's time is up, given what `STATE` is there as ``$1``.

    For clouds that only play what an instance would do with its user data.
    """
    return f'set -- {_whole(lifetime)} "$1/{NAME}"\n{_COUNT}'


def renewing(lifetime: float) -> str:
    """A command line for root that has an instance end `lifetime` seconds from now, not earlier.

    It exits with 0 when that is so, with `NOT_THERE` where the instance does not end by itself.
    """
    return script(_RENEW, _whole(lifetime))


def _whole(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))
