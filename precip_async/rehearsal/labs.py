"""The labs of a rehearsal: opened when the script first speaks to what they play."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from precip_async.errors import ExperimentException
from precip_async.lab.lab import Lab

if TYPE_CHECKING:
    import socket
    from pathlib import Path
    from types import TracebackType

    from precip_async.clouds.local.cloud import Isolation
    from precip_async.lab.scenario import Scenario

__all__ = ["Labs", "Scene"]

LONGEST_LINE: Final = 1 << 24  # bytes of what the script's side says at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One lab, and what it stands for."""

    lab: Lab
    stands_for: str


class Labs:
    """Answers what the script's side asks, and keeps what it tells.

    Args:
        scratch: The directory of the rehearsal.
        scenario: What is to go wrong in each lab.
        isolation: How the machines are kept apart.

    Attributes:
        scenes: One for each cloud that the script spoke to, in their order.
        told: What the script's side has told, in its order.
        unplayed: What could not be played, and why.
    """

    def __init__(self, scratch: Path, *, scenario: Scenario, isolation: Isolation) -> None:
        self.scenes: list[Scene] = []
        self.told: list[dict[str, Any]] = []
        self.unplayed: list[str] = []
        self._scratch, self._scenario, self._isolation = scratch, scenario, isolation
        self._numbers: dict[tuple[str, str, str], int] = {}  # by what is played: which scene
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):  # each lab bounds itself
            await self._open.aclose()

    async def serve(self, line: socket.socket) -> None:
        """Answer until the script's side hangs up."""
        reader, writer = await asyncio.open_connection(sock=line, limit=LONGEST_LINE)
        try:
            while (said := await reader.readline()).endswith(b"\n"):  # else it was cut off
                facts = json.loads(said)
                if "tell" in facts:
                    self.told.append(facts)
                    continue
                try:
                    answer = await self._answer(**facts["ask"])
                except (ExperimentException, OSError) as error:
                    answer = {"error": str(error)}
                    self.unplayed.append(f"{facts['ask']['stands_for']}: {error}")
                answer["id"] = facts["id"]
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except OSError:
            return  # it was killed before it could read the answer
        finally:
            writer.close()

    async def _answer(
        self, *, dialect: str, region: str, zone: str | None, tls: bool, stands_for: str
    ) -> dict[str, Any]:
        """What the lab that plays `stands_for` is reached by; it is opened where it isn't yet."""
        played = (dialect, region, stands_for)
        if played not in self._numbers:
            directory = self._scratch / f"lab-{len(self.scenes)}"
            await anyio.Path(directory).mkdir(exist_ok=True)  # one that did not open has left it
            lab = Lab(
                dialect,
                directory=directory,
                isolation=self._isolation,
                scenario=self._scenario,
                tls=tls,
                region=region,
            )
            await self._open.enter_async_context(lab)
            self._numbers[played] = len(self.scenes)
            self.scenes.append(Scene(lab=lab, stands_for=stands_for))
        number = self._numbers[played]
        lab = self.scenes[number].lab
        if zone is not None:
            lab.add_zone(zone)  # which there are in truth is not known here
        return {
            "number": number,
            "region": lab.region,
            "endpoint": lab.endpoint,
            "access_key": lab.access_key,
            "secret_key": lab.secret_key,
            "ssh_port": lab.ssh_port,
            "ca_file": str(lab.ca_file) if lab.ca_file else None,
        }
