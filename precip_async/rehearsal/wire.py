"""The script's end of the line to the rehearsal: questions that wait, and what happens, which not.

Threads do the reading and writing, so that no event loop of the script's is ever held up.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import queue
import threading
from typing import TYPE_CHECKING, Any, Final

from precip_async.errors import ExperimentException

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["Wire"]

ANSWER: Final = 60.0  # seconds for a lab to open, which takes about 0.1
FLUSH: Final = 2.0  # seconds for the last lines to go out when the script ends


class Wire:
    """Made once, in the process that the rehearsal has started.

    Args:
        line: The connected socket.
        hung_up: Called, in a thread, when the rehearsal has gone.
    """

    def __init__(self, line: socket.socket, hung_up: Callable[[], None]) -> None:
        self._line, self._hung_up = line, hung_up
        self._process = os.getpid()
        self._numbers = itertools.count()
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._outgoing: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="rehearsal-out", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name="rehearsal-in", daemon=True).start()
        atexit.register(self._flush)
        # a fork must not hold the line open beyond the script's end
        os.register_at_fork(after_in_child=line.close)

    def tell(self, **facts: Any) -> None:
        """Say that something happened. Returns at once; of a fork nothing is said."""
        if self._process == os.getpid():
            self._outgoing.put(facts)

    def ask(self, **facts: Any) -> dict[str, Any]:
        """What the rehearsal answers. Blocks.

        Raises:
            ExperimentException: It can't do what is asked for, or this is a fork of the script's
                process.
        """
        if self._process != os.getpid():
            raise ExperimentException(
                "a rehearsal leads the experiments of the script's own process only, and this one "
                f"was forked from it (process {self._process})"
            )
        number = next(self._numbers)
        self._waiting[number] = queue.SimpleQueue()
        self._outgoing.put({"id": number, "ask": facts})
        try:
            answer = self._waiting[number].get(timeout=ANSWER)
        except queue.Empty:
            answer = {"error": f"no answer within {ANSWER:.0f} s"}
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise ExperimentException(f"the rehearsal: {answer['error']}")
        return answer

    def _write(self) -> None:
        while (facts := self._outgoing.get()) is not None:
            try:
                self._line.sendall(json.dumps(facts).encode() + b"\n")
            except OSError:  # the reader hears of it as well, and says so
                return

    def _read(self) -> None:
        with self._line.makefile("rb") as lines:
            try:
                for line in lines:
                    answer = json.loads(line)
                    if waiting := self._waiting.get(answer["id"]):
                        waiting.put(answer)
            except OSError:  # cut off in the midst of a line
                pass
        if self._process == os.getpid():
            self._hung_up()

    def _flush(self) -> None:
        if self._process == os.getpid():
            self._outgoing.put(None)
            self._writer.join(FLUSH)
