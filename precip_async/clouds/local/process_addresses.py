"""An address of its own for every machine, without privileges.

On Linux the whole of 127.0.0.0/8 is this computer, so each machine gets an address there, in a
block of 253 picked at random, and the same port. Elsewhere all share 127.0.0.1 and differ by port.
What is handed out is a bound socket: two experiments can't be given the same place, however they
race, and a machine whose SSH server is late keeps it meanwhile (connections are refused).
"""

from __future__ import annotations

import secrets
import socket
import sys
from typing import Final

__all__ = ["Addresses"]

PORT: Final = 2222  # above those that need privileges
HOSTS: Final = 253  # addresses taken of a block of 256
TRIES: Final = 8  # blocks, before we take any free port: somebody may listen on 0.0.0.0:2222
SHARED: Final = "127.0.0.1"


class Addresses:
    """Hands out places to listen at.

    Args:
        own: Whether each is to have its own address; ``None``: where the system has them.
    """

    def __init__(self, *, own: bool | None = None) -> None:
        self._own = sys.platform == "linux" if own is None else own
        self._block = ""
        self._taken = HOSTS

    def take(self) -> socket.socket:
        """A socket bound to a place nobody else has, not listening yet; the caller closes it.

        Raises:
            OSError: There is none.
        """
        if self._own:
            for _ in range(TRIES):
                try:
                    return _bound(self._next(), PORT)
                except OSError:  # taken: a block further. No such address: the last resort
                    self._taken = HOSTS
            try:
                return _bound(self._next(), 0)
            except OSError:  # a loopback of one address, as some sandboxes have
                self._own = False
        return _bound(SHARED, 0)

    def _next(self) -> str:
        # An address is not used twice before its block is: who still remembers a machine's host
        # key by its address must not meet another machine there.
        if self._taken == HOSTS:
            self._block = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
            self._taken = 0
        self._taken += 1
        return f"{self._block}.{self._taken}"


def _bound(address: str, port: int) -> socket.socket:
    # No SO_REUSEADDR: with it, Linux lets two sockets share a place until one of them listens.
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.bind((address, port))
    except BaseException:
        taken.close()
        raise
    return taken
