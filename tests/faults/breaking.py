"""Protections that can be taken away, to see that they are missed."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.clouds.ec2_addresses import Addresses
from precip_async.clouds.ec2_calls import Calls
from precip_async.clouds.ec2_credentials import Credentials
from precip_async.ending import Books
from precip_async.home.journal import Journal
from precip_async.launch import Launcher
from precip_async.ssh.command import _Run
from precip_async.ssh.slot import Lease
from precip_async.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["BREAKS", "broken"]

Patch = pytest.MonkeyPatch


def no_shield_of_launches(patch: Patch) -> None:
    """A launch is abandoned when it is cancelled."""

    @contextmanager
    def launching(_: Launcher) -> Iterator[None]:
        yield

    patch.setattr(Launcher, "_launching", launching)


def late_intent(patch: Patch) -> None:
    """The journal hears of a launch when it is answered."""
    write, late = Books.write, list[dict[str, Any]]()

    async def written(books: Books, method: Any, *args: Any, **given: Any) -> Any:
        if method is Journal.intend:
            late.append(given)
            return None
        if method is Journal.answered:
            await write(books, Journal.intend, **late.pop())
        return await write(books, method, *args, **given)

    patch.setattr(Books, "write", written)


def no_shield_of_starts(patch: Patch) -> None:
    """Asking for a command is abandoned when it is cancelled."""

    async def start(lease: Lease, line: str, receiver: Any, **_: Any) -> Any:
        return await lease.transport.start(line, receiver)

    patch.setattr(Lease, "start", start)


def no_shield_of_ends(patch: Patch) -> None:
    """Closing stops when it is cancelled."""

    async def aclose(stage: Stage) -> None:
        try:
            await stage.launcher.close(keep=False)
        finally:
            with anyio.CancelScope(shield=True):
                await stage._undo.aclose()

    patch.setattr(Stage, "aclose", aclose)


def another_token_each_time(patch: Patch) -> None:
    """A launch that is asked for again is another launch."""
    ask = Calls._ask_once

    async def asked(calls: Calls, operation: str, given: Mapping[str, Any], *rest: Any) -> Any:
        if operation == "RunInstances":
            given = {**given, "ClientToken": str(uuid.uuid4())}
        return await ask(calls, operation, given, *rest)

    patch.setattr(Calls, "_ask_once", asked)


def addresses_stay(patch: Patch) -> None:
    """Elastic addresses are not given back."""

    async def release(_: Addresses, ips: list[str]) -> None:
        pass

    patch.setattr(Addresses, "_release", release)


def early_word_of_an_end(patch: Patch) -> None:
    """The journal hears that machines have ended when they are asked to."""
    write = Books.write

    async def written(books: Books, method: Any, *args: Any, **given: Any) -> Any:
        if method is Journal.ending:
            await write(books, Journal.ended, *args, **given)
        return await write(books, method, *args, **given)

    patch.setattr(Books, "write", written)


def commands_go_on(patch: Patch) -> None:
    """What runs when its caller is cancelled is left to itself."""

    async def end(run: _Run) -> str:
        run._lease.drop()
        return ""

    patch.setattr(_Run, "end", end)


def a_secret_in_a_log(patch: Patch) -> None:
    """Whoever is asked with is written to a file beside the home."""
    keep = Credentials._keep_secret

    def kept(credentials: Credentials, *given: str | None) -> None:
        keep(credentials, *given)
        with Path(os.environ["PRECIP_HOME"]).with_suffix(".log").open("a") as file:
            file.write(f"asked as {given}\n")

    patch.setattr(Credentials, "_keep_secret", kept)


BREAKS: Mapping[str, Callable[[Patch], None]] = {
    breaks.__name__: breaks
    for breaks in (
        *(no_shield_of_launches, late_intent, no_shield_of_starts, no_shield_of_ends),
        *(another_token_each_time, addresses_stay, early_word_of_an_end, commands_go_on),
        a_secret_in_a_log,
    )
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Take the protection `name` away meanwhile; an empty one is none."""
    with Patch.context() as patch:
        if name:
            BREAKS[name](patch)
        yield
