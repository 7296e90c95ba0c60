"""The numbers that bound what we do, in one value: each has a unit, a reason and a default."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from precip_async.errors import InvalidArgument

__all__ = ["Limits"]

Workers = int | Literal["auto"]

MOST_WORKERS = 64  # each is a process of 40 MiB
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one experiment; each can be given, the rest keep their defaults.

    Attributes:
        max_connects: SSH handshakes in flight. One core does about 500 a second: more at once
            only make each other time out.
        max_connects_per_server: Likewise, to one SSH server or through one bastion: sshd's
            ``MaxStartups`` begins to refuse at 10.
        max_channels: Commands at once over one connection. sshd's ``MaxSessions`` is 10; two
            stay free for ending commands.
        max_hosts: Instances worked on at once in a fan-out.
        connect_timeout: Seconds for TCP connect, key exchange and authentication together, over
            all attempts.
        probe_timeout: Seconds for one attempt to reach an instance that boots.
        keepalive: Seconds of silence after which a peer is asked whether it lives.
        keepalive_count: Unanswered questions after which it is taken for lost.
        drain_grace: Seconds that output held open by others is waited for after a command exited.
        kill_grace: Seconds between TERM and KILL.
        close_grace: Seconds for closing connections and files in a shielded cleanup.
        launch_timeout: Seconds until a cloud has accepted or refused a launch.
        terminate_timeout: Seconds until a cloud confirms a termination.
        poll_interval: Seconds between two describe rounds while anything is pending.
        poll_interval_idle: Likewise, when nothing has changed for `poll_idle_after` seconds.
        poll_idle_after: See `poll_interval_idle`.
        output_limit: Bytes of one stream of one command kept in memory: its head. Beyond it the
            whole stream is in the file that ``stdout_path`` or ``stderr_path`` names.
        output_total: Bytes kept in memory by one fan-out, likewise.
        small_file: Bytes up to which a file is read whole and sent at once.
        ssh_fast: Whether SSH connections take shortcuts through asyncssh, whose private parts they
            use where these are as expected (asyncssh 2.24.1): half the CPU, half the round trips.
        packed_tree: Bytes up to which a tree that goes to several instances is packed once, to a
            temporary file; a larger one is packed for each.
        ssh_workers: Processes that share an experiment's SSH connections, each with a core to
            itself; 0: none, it is all done in this one; ``"auto"``: as many as the instances and
            the cores are worth, see `precip_async.ssh.workers.auto`.
    """

    max_connects: int = 64
    max_connects_per_server: int = 8
    max_channels: int = 8
    max_hosts: int = 256
    connect_timeout: float = 30.0
    probe_timeout: float = 5.0
    keepalive: float = 15.0
    keepalive_count: int = 4
    drain_grace: float = 1.0
    kill_grace: float = 5.0
    close_grace: float = 10.0
    launch_timeout: float = 120.0
    terminate_timeout: float = 300.0
    poll_interval: float = 1.0
    poll_interval_idle: float = 5.0
    poll_idle_after: float = 60.0
    output_limit: int = 16 * MIB
    output_total: int = 1 * GIB
    small_file: int = 1 * MIB
    ssh_fast: bool = True
    packed_tree: int = 256 * MIB
    ssh_workers: Workers = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "Workers":
                _check_workers(field.name, value)
                continue
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise InvalidArgument(
                        f"limits.{field.name} must be True or False, not {value!r}"
                    )
                continue
            wanted = int if field.type == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted) or not value > 0:
                kind = "a whole number" if wanted is int else "a number of seconds"
                raise InvalidArgument(f"limits.{field.name} must be {kind} above 0, not {value!r}")


def _check_workers(name: str, value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not (whole and 0 <= value <= MOST_WORKERS):  # type: ignore[operator] # a whole number
        raise InvalidArgument(
            f'limits.{name} must be a whole number from 0 to {MOST_WORKERS}, or "auto", '
            f"not {value!r}"
        )
