"""The warden: one small process for each experiment, in which its machines are kept.

It outlives the script by as long as it takes to end them, or, with ``keep``, for as long as one of
them runs. It is started by `LocalCloud` as ``python -m precip_async.clouds.local.warden <facts>``,
leaves the script's session at once, and then is spoken to over a socket: a request a line, a reply
a line, in JSON, as many in flight as one likes.

Standard library and the yard only: with namespaces it costs 14 MiB, most of them Python's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from precip_async import descriptors
from precip_async.clouds.local import processes
from precip_async.clouds.local.register import MAX_CROWD, MAX_MACHINES, Full, Register
from precip_async.clouds.local.state import Record, State
from precip_async.clouds.local.yard import YardError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from precip_async.clouds.local.yard import Yard

__all__ = ["LINE_LIMIT", "main"]

LINE_LIMIT: Final = 1 << 25  # bytes of one request: a thousand machines and their user data
HELLO: Final = 10.0  # seconds for a script that calls to say who it is
LOOK_AGAIN: Final = 1.0  # seconds between looks at what tells us nothing by itself


class Warden:
    """Serves one experiment until its script, or its last kept machine, is gone."""

    def __init__(self, yard: Yard, state: State, record: Record, *, crowd: bool = False) -> None:
        self._yard = yard
        self._register = Register(yard, room=MAX_CROWD if crowd else MAX_MACHINES)
        self._state = state
        self._record = record
        self._script = (0, "")  # whose machines they are: its process id and birth
        self._over = asyncio.Event()
        self._alone = asyncio.Event()

    async def serve(self, line: socket.socket, script: tuple[int, str]) -> None:
        """Answer requests until it is time to end; all machines have ended on return."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._over.set)
        reader, writer = await asyncio.open_connection(sock=line, limit=LINE_LIMIT)
        try:
            await self._yard.open()
            self._state.write(self._record)
            callers = self._state.listen() if self._record.keep else None
            await _say(writer, {"id": 0, "ok": self._yard.shared_because})
            async with asyncio.TaskGroup() as group:
                tasks = {group.create_task(self._keep())}

                def begin(work: Coroutine[Any, Any, None]) -> None:
                    task = group.create_task(work)
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

                self._belong(script, reader, writer, begin)
                server = None
                if callers is not None:  # others go on with what this script leaves
                    server = await asyncio.start_unix_server(
                        lambda come, go: begin(self._admit(come, go, begin)),
                        sock=callers,
                        limit=LINE_LIMIT,
                    )
                await self._over.wait()
                if server is not None:
                    server.close()
                for task in [*tasks]:
                    task.cancel()
        except YardError as error:
            await _say(writer, {"id": 0, "error": str(error)})
        finally:
            await self._register.abandon()
            await self._yard.aclose()

    def _belong(
        self,
        script: tuple[int, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Be a script's from now on, until it hangs up or dies."""
        self._script = script
        self._alone.clear()
        begin(self._answer(script, reader, writer))
        begin(self._outlive(script))

    async def _admit(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Become another script's that calls, once the last one has gone."""
        try:
            async with asyncio.timeout(HELLO):
                hello = json.loads(await reader.readline())
                script = (int(hello["script"][0]), str(hello["script"][1]))
        except (TimeoutError, ConnectionError, ValueError, TypeError, LookupError):
            writer.close()
            return
        if not self._alone.is_set() or self._over.is_set():
            await _say(writer, {"id": 0, "error": "another script has them, or they are ending"})
            writer.close()
            return
        self._belong(script, reader, writer, begin)
        await _say(writer, {"id": 0, "ok": self._yard.shared_because})

    def _left(self, script: tuple[int, str]) -> None:
        """A script has gone; another one may have followed it."""
        if script == self._script:
            self._alone.set()

    async def _answer(
        self, script: tuple[int, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer what is asked, each request in a task of its own, until there are no more."""
        async with asyncio.TaskGroup() as requests:
            with contextlib.suppress(ConnectionError):
                while text := await reader.readline():
                    requests.create_task(self._handle(json.loads(text), writer))
        self._left(script)

    async def _outlive(self, script: tuple[int, str]) -> None:
        """Notice the script's end where a fork of it holds on to its end of our socket."""
        pid, born = script
        while (  # noqa: ASYNC110 - no event tells of it
            script == self._script and await asyncio.to_thread(processes.birth, pid) == born
        ):
            await asyncio.sleep(LOOK_AGAIN)
        self._left(script)

    async def _keep(self) -> None:
        """Once alone: end, or go on for as long as a machine that is to be kept is alive."""
        while not self._over.is_set():
            await self._alone.wait()
            if not (self._record.keep and self._register.any_alive()):
                self._over.set()
                return
            await asyncio.sleep(LOOK_AGAIN)

    async def _handle(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        operation: Callable[..., Awaitable[Any]] = getattr(self, f"op_{request.pop('op')}")
        number = request.pop("id")
        try:
            reply = {"id": number, "ok": await operation(**request)}
        except Full as error:
            reply = {"id": number, "full": str(error)}
        except YardError as error:
            reply = {"id": number, "error": str(error)}
        except OSError as error:  # such as a full disk: one request fails, and no machine ends
            reply = {"id": number, "error": f"the state of instances can't be kept: {error}"}
        await _say(writer, reply)

    async def op_launch(
        self, token: str, least: int, machines: list[dict[str, Any]], lifetime: float | None
    ) -> Any:
        """Start `machines`, or as many as there is room for if these are at `least` so many.

        They end by themselves `lifetime` seconds later, whoever is there then.
        """
        known = self._register.find(token)
        if known:
            return known
        chosen = self._register.room_for(machines, least)
        self._note(self._record.with_machines([machine["spec"]["id"] for machine in chosen]))
        return self._register.launch(token, chosen, lifetime)

    def _note(self, record: Record) -> None:
        self._state.write(record)  # first: what can't be written does not hold
        self._record = record

    async def op_extend(self, ids: list[str], lifetime: float) -> Any:
        """Have `ids` end `lifetime` seconds from now, and none of them earlier than it would."""
        self._register.extend(ids, lifetime)

    async def op_describe(self, ids: list[str]) -> Any:
        """What became of `ids`."""
        return self._register.describe(ids)

    async def op_find(self, token: str) -> Any:
        """What the launch named `token` started."""
        return self._register.find(token)

    async def op_terminate(self, ids: list[str]) -> Any:
        """Begin to end `ids`."""
        return self._register.terminate(ids)

    async def op_keep(self, keep: bool) -> Any:
        """Whether the machines are to outlive the script that has them now."""
        self._note(replace(self._record, keep=keep))

    async def op_shutdown(self) -> Any:
        """End everything, ourselves included. The socket's end says that it is done."""
        self._over.set()


async def _say(writer: asyncio.StreamWriter, reply: dict[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(reply).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # the script has gone: nobody to tell
            await writer.drain()


def main() -> None:
    """Run the warden that the first argument describes, away from whoever started it."""
    facts = json.loads(sys.argv[1])
    if os.fork():  # so that we are nobody's child: the script may die first, and must not reap us
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    descriptors.lower(facts["open_files"])  # the script's own, which machines are to have
    for descriptor in (facts["lock"], facts["line"]):
        os.set_inheritable(descriptor, False)
    state = State(Path(facts["base"]), facts["experiment"])
    record = Record(
        experiment=facts["experiment"],
        isolation=facts["isolation"],
        keep=facts["keep"],
        pid=os.getpid(),
        born=processes.birth(os.getpid()),
    )
    state.write(record)
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        # Until 3.12 the default watches each child in a thread of its own.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    asyncio.run(_serve(facts, state, record))
    state.remove()


async def _serve(facts: dict[str, Any], state: State, record: Record) -> None:
    yard = _yard(facts, state.path)
    line = socket.socket(fileno=facts["line"])
    warden = Warden(yard, state, record, crowd=facts["crowd"])
    await warden.serve(line, tuple(facts["script"]))


def _yard(facts: dict[str, Any], directory: Path) -> Yard:
    if facts["isolation"] == "namespace":
        from precip_async.clouds.local.namespace import NamespaceYard

        return NamespaceYard(directory, internet=facts["internet"])
    from precip_async.clouds.local.process import ProcessYard

    return ProcessYard(directory, private=False if facts["crowd"] else None)


if __name__ == "__main__":
    main()
