"""Faster ways of asyncssh's connections through a key exchange: what is known is not found again.

Parts of `openssh_fast`, which says what a part is.
"""

from __future__ import annotations

import os
import time
import types
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import asyncssh
from asyncssh import constants
from asyncssh.crypto.ed import Curve25519DH
from asyncssh.kex import Kex, expand_kex_algs, get_kex
from asyncssh.kex_dh import MSG_KEX_ECDH_INIT, MSG_KEX_ECDH_REPLY
from asyncssh.packet import Boolean, NameList, String
from asyncssh.public_key import decode_ssh_public_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from asyncssh.packet import SSHPacket

__all__ = ["EXCHANGE_PARTS", "Agrees", "Greets", "Recognises", "begun"]

COOKIE = 17  # bytes: the type and the cookie, which a proposal begins with
AGREEMENTS = 64  # kinds of server that are remembered
CURVE25519 = (b"curve25519-sha256", b"curve25519-sha256@libssh.org")
SIGN = 0x80  # in the first byte of a number that SSH would take for a negative one


class Recognises(asyncssh.SSHClientConnection):
    """A host key that is known is compared, not parsed; one that is not is no certificate."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._validate_host_key": "c241f6dc",
        "connection.SSHClientConnection.validate_server_host_key": "d9492e42",
    }

    def validate_server_host_key(self, key_data: bytes) -> asyncssh.SSHKey:
        for key in self._trusted_host_keys or ():
            if key.public_data == key_data and key not in self._revoked_host_keys:
                self._server_host_key = key
                return key
        if not self._trusted_host_keys and (first := _first_key(key_data)) is not None:
            if not self._owner.validate_host_public_key(self._host, "", self._port, first):
                raise asyncssh.HostKeyNotVerifiable(
                    f"Host key is not trusted for host {self._host}"
                )
            self._server_host_key = first
            return first
        return super().validate_server_host_key(key_data)


def _first_key(shown: bytes) -> asyncssh.SSHKey | None:
    """The key that is shown; ``None`` where asyncssh has to say what it is."""
    try:
        return decode_ssh_public_key(shown)
    except asyncssh.KeyImportError:
        return None


class Greets(asyncssh.SSHClientConnection):
    """Begins the key exchange together with the version, as RFC 4253, section 7.1, allows."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._send_version": "ec693407",
        "connection.SSHConnection._recv_version": "624ebbfa",
        "connection.SSHConnection._send_kexinit": "fd667a29",
        "kex.expand_kex_algs": "5955cb6a",
    }

    def _send_version(self) -> None:
        super()._send_version()
        self._send_kexinit()
        self._kexinit_sent = True

    def _send_kexinit(self) -> None:
        if self._kexinit_sent and not self._session_id:
            return  # the peer's version asks for it once more
        if self._gss_kex or not self._server_host_key_algs:
            super()._send_kexinit()
            return
        self._kex_complete, self._rekey_bytes_sent = False, 0
        if self._rekey_seconds:
            self._rekey_time = time.monotonic() + self._rekey_seconds
        proposal = os.urandom(16) + _proposal(
            (*self._kex_algs, *self._get_extra_kex_algs()),
            tuple(self._server_host_key_algs),
            tuple(self._enc_algs),
            tuple(self._mac_algs),
            tuple(self._cmp_algs),
        )
        self._client_kexinit = bytes((constants.MSG_KEXINIT,)) + proposal
        self.send_packet(constants.MSG_KEXINIT, proposal)


@lru_cache(maxsize=AGREEMENTS)
def _proposal(
    kex: tuple[bytes, ...],
    host_keys: tuple[bytes, ...],
    ciphers: tuple[bytes, ...],
    macs: tuple[bytes, ...],
    compressions: tuple[bytes, ...],
) -> bytes:
    """What comes behind the cookie in our KEXINIT: no languages, no guess."""
    each_way = [one for one in (ciphers, macs, compressions, ()) for _ in range(2)]
    names = [expand_kex_algs(kex, [], host_key_available=True), host_keys, *each_way]
    return b"".join((*map(NameList, names), Boolean(False), bytes(4)))


class _Curve25519(Kex):
    """A key exchange as RFC 8731 has it, begun; the answer to it is dealt with in one go."""

    def __init__(self, algorithm: bytes, connection: asyncssh.SSHClientConnection) -> None:
        super().__init__(algorithm, connection, sha256)
        self._secret = Curve25519DH()
        self._public = String(self._secret.get_public())
        self.send_packet(MSG_KEX_ECDH_INIT, self._public)

    def _process_reply(self, _pkttype: int, _pktid: int, packet: SSHPacket) -> None:
        shown, theirs, signature = (packet.get_string() for _ in range(3))
        packet.check_end()
        connection: Any = self._conn
        host_key = connection.validate_server_host_key(shown)
        try:
            shared = self._secret.get_shared_bytes(theirs).lstrip(b"\0")
        except ValueError:
            raise asyncssh.ProtocolError("Invalid ECDH server public key") from None
        k = String(b"\0" + shared if shared[0] & SIGN else shared)
        parts = (connection.get_hash_prefix(), String(shown), self._public, String(theirs), k)
        h = sha256(b"".join(parts)).digest()
        if not host_key.verify(h, signature):
            raise asyncssh.KeyExchangeFailed("Key exchange hash mismatch")
        connection.send_newkeys(k, h)

    _packet_handlers = {MSG_KEX_ECDH_REPLY: _process_reply}  # noqa: RUF012 - as asyncssh has it


class Agrees(asyncssh.SSHClientConnection):
    """Goes through two proposals once for all servers that propose the same; in no task."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._process_kexinit": "8d751b89",
        "connection.SSHConnection._recv_packet": "7139c629",
        "connection.SSHConnection.get_hash_prefix": "4c83702a",
        "crypto.ed.Curve25519DH.get_public": "3a5d9a3a",
        "crypto.ed.Curve25519DH.get_shared_bytes": "faee1d07",
        "kex.Kex.__init__": "f25763f9",
        "kex.get_kex": "1e7b05fe",
        "kex_dh._KexDHBase._compute_hash": "22b36e29",
        "kex_dh._KexDHBase._process_reply": "c46f4497",
        "kex_dh._KexDHBase._verify_reply": "6249e9a8",
        "kex_dh._KexECDH._compute_client_shared": "dd4ab99a",
    }
    HANDLES: ClassVar[dict[int, str]] = {constants.MSG_KEXINIT: "_process_kexinit"}
    AGREED = (
        *("_can_send_ext_info", "_strict_kex", "_ignore_first_kex", "_enc_alg_cs", "_enc_alg_sc"),
        *("_mac_alg_cs", "_mac_alg_sc", "_cmp_alg_cs", "_cmp_alg_sc"),
    )
    _agreements: ClassVar[dict[tuple[bytes, bytes], tuple[bytes, dict[str, Any]]]] = {}

    def _process_kexinit(  # type: ignore[override]  # all of it is done where nothing is waited for
        self, pkttype: int, pktid: int, packet: SSHPacket
    ) -> Awaitable[None] | None:
        theirs = packet.get_full_payload()
        proposals = (self._client_kexinit[COOKIE:], theirs[COOKIE:])
        first = self._kexinit_sent and not self._session_id and self._recv_seq == 0
        first = first and self._kex is None and self._gss is None
        if first and (agreed := self._agreements.get(proposals)):
            algorithm, facts = agreed
            for name, fact in facts.items():
                setattr(self, name, fact)
            self._server_kexinit, self._kexinit_sent = theirs, False
            if algorithm in CURVE25519:
                self._kex = _Curve25519(algorithm, self)
                return None
            self._kex = get_kex(self, algorithm)
            return begun(self._kex.start())
        rest = begun(super()._process_kexinit(pkttype, pktid, packet))
        if first and self._kex is not None:
            if len(self._agreements) >= AGREEMENTS:
                self._agreements.clear()
            facts = {name: getattr(self, name) for name in self.AGREED}
            self._agreements[proposals] = self._kex.algorithm, facts
        return rest


def begun(job: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Do what `job` does before it first waits; its rest, to be awaited, if it does wait."""
    try:
        waits_for = job.send(None)
    except StopIteration:
        return None
    return _rest(job, waits_for)


@types.coroutine
def _rest(job: Coroutine[Any, Any, None], waits_for: object) -> Generator[Any, Any, None]:
    step: Callable[[Any], Any]
    while True:
        try:
            answer = yield waits_for
        except BaseException as error:  # noqa: BLE001 - it is the job's to deal with
            step, answer = job.throw, error
        else:
            step = job.send
        try:
            waits_for = step(answer)
        except StopIteration:
            return


EXCHANGE_PARTS = (Recognises, Greets, Agrees)
