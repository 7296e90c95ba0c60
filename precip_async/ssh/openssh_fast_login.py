"""Faster ways of asyncssh's connections through a handshake: what is known is not found out again.

Parts of `openssh_fast`, which says what a part is.
"""

from __future__ import annotations

import os
import time
import types
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import asyncssh
from asyncssh import constants
from asyncssh.auth import ClientAuth
from asyncssh.kex import expand_kex_algs, get_kex
from asyncssh.packet import Boolean, NameList, String
from asyncssh.public_key import SSHLocalKeyPair

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from asyncssh.packet import SSHPacket

__all__ = ["LOGIN_PARTS", "Agrees", "Greets", "Recognises", "Signs", "Spares", "begun"]

COOKIE = 17  # bytes: the type and the cookie, which a proposal begins with
AGREEMENTS = 64  # kinds of server that are remembered
PUBLICKEY, NONE = b"publickey", b"none"
NOBODY = asyncssh.SSHClient()


class Recognises(asyncssh.SSHClientConnection):
    """A host key that is known is compared, not parsed."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._validate_host_key": "c241f6dc",
        "connection.SSHClientConnection.validate_server_host_key": "d9492e42",
    }

    def validate_server_host_key(self, key_data: bytes) -> asyncssh.SSHKey:
        for key in self._trusted_host_keys or ():
            if key.public_data == key_data and key not in self._revoked_host_keys:
                self._server_host_key = key
                return key
        return super().validate_server_host_key(key_data)


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


class Agrees(asyncssh.SSHClientConnection):
    """Goes through two proposals once for all servers that propose the same; in no task."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._process_kexinit": "8d751b89",
        "connection.SSHConnection._recv_packet": "7139c629",
        "kex.get_kex": "1e7b05fe",
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


class _Signed(ClientAuth):
    """A signed request that is under way; there is nothing left to do for it."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        # without the task that the parents' constructor would start
        self._conn, self._logger = connection, connection.logger
        self._method, self._task = PUBLICKEY, None


class Signs(asyncssh.SSHClientConnection):
    """Logs in by one signed request, sent together with the one for the service of logging in.

    asyncssh asks three times: whether nobody needs to log in, whether the key would do, and with a
    signature. The first is left out where there are keys; who then takes none is asked after all.
    The second is left out for the last key, if we have it in memory: keys before it, and those of
    agents, whose owners may have to touch them, are offered as ever. An RSA key has several kinds
    of signature, and waits to hear which of them the server takes.
    """

    RELIES_ON: ClassVar[dict[str, str]] = {
        "auth.Auth.__init__": "8f1b3411",
        "auth.Auth.cancel": "57dbe552",
        "auth.ClientAuth.__init__": "e9d5a4c2",
        "auth._ClientPublicKeyAuth._start": "76850ec4",
        "auth._ClientPublicKeyAuth._send_signed_request": "0c6f1564",
        "connection.SSHConnection.send_newkeys": "152160e5",
        "connection.SSHConnection.send_service_request": "80c35ded",
        "connection.SSHConnection._process_service_accept": "8e68913f",
        "connection.SSHConnection._process_ext_info": "3339faf9",
        "connection.SSHConnection._process_userauth_failure": "00f0063f",
        "connection.SSHConnection._process_userauth_success": "35cb8cd6",
        "connection.SSHConnection.send_userauth_packet": "812436f4",
        "connection.SSHConnection.send_userauth_request": "ead9cc7a",
        "connection.SSHConnection._get_userauth_request_packet": "63ed6117",
        "connection.SSHClientConnection.try_next_auth": "031bb4ae",
        "connection.SSHClientConnection.public_key_auth_requested": "3d8aa074",
        "connection.SSHClientConnection._choose_signature_alg": "6b628bcb",
    }
    HANDLES: ClassVar[dict[int, str]] = {constants.MSG_EXT_INFO: "_process_ext_info"}
    _told: ClassVar[dict[bytes, set[bytes]]] = {}  # what extensions say of signatures
    _asked_for_none = False
    _ahead = False  # whether the request was sent before the service was granted

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self._public_key_auth and (self._client_keys or self._get_agent_keys):
            self._auth_methods = [PUBLICKEY]
        else:
            self._asked_for_none = True

    def send_service_request(self, service: bytes) -> None:
        super().send_service_request(service)
        self._sign_ahead()

    def _process_ext_info(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        said = packet.get_full_payload()
        known = self._told.get(said)
        if known is not None and self._can_recv_ext_info:
            self._server_sig_algs = known
        else:
            super()._process_ext_info(pkttype, pktid, packet)
            if len(self._told) >= AGREEMENTS:
                self._told.clear()
            self._told[said] = self._server_sig_algs
        self._sign_ahead()

    def _sign_ahead(self) -> None:
        """Send the request if the service was asked for, and nothing has to be heard first."""
        if self._next_service is None or self._auth is not None or self._asked_for_none:
            return
        key = self._last_key()
        if key is not None and (self._server_sig_algs or len(key.sig_algorithms) == 1):
            self._ahead = self._sign(key)

    def try_next_auth(self, *, next_method: bool = False) -> None:
        ahead, self._ahead = self._ahead, False
        if ahead and self._next_service is None and not next_method:
            return  # the service is granted, and the request on its way
        if not next_method and self._auth_methods[:1] == [PUBLICKEY]:
            key = self._last_key()
            if key is not None and self._sign(key):
                return
        if not self._auth_methods and not self._asked_for_none:
            self._asked_for_none, self._auth_methods = True, [NONE]
        super().try_next_auth(next_method=next_method)

    def _last_key(self) -> SSHLocalKeyPair | None:
        """The only key that is left to be tried, if it can be signed with at once."""
        if len(self._client_keys) != 1 or self._get_agent_keys or self._get_pkcs11_keys:
            return None
        key = self._client_keys[0]
        if type(key) is not SSHLocalKeyPair or key.use_executor or key.has_cert:
            return None
        return key if self._choose_signature_alg(key) else None

    def _sign(self, key: SSHLocalKeyPair) -> bool:
        """Send the request signed with `key`, which is then used up; whether it could be."""
        if self._auth is not None:
            self._auth.cancel()
            self._auth = None
        self._client_keys.clear()
        request = self._get_userauth_request_packet(
            PUBLICKEY, (Boolean(True), String(key.algorithm), String(key.public_data))
        )
        try:
            signature = key.sign(String(self._session_id) + request)
        except ValueError as error:
            self.logger.debug1("Public key auth failed: %s", str(error))
            return False
        self._auth = _Signed(self)
        self.send_userauth_packet(
            constants.MSG_USERAUTH_REQUEST, request[1:] + String(signature), trivial=False
        )
        return True


class Spares(asyncssh.SSHClientConnection):
    """No task for the host keys that OpenSSH tells of after each login: nobody here listens."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHClientConnection."
        "_process_hostkeys_00_at_openssh_dot_com_global_request": "a21eb3e2",
        "connection.SSHClientConnection._finish_hostkeys": "c51cc880",
    }

    def _process_hostkeys_00_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        if self._server_host_keys_handler is None:
            self._report_global_response(False)
        else:
            super()._process_hostkeys_00_at_openssh_dot_com_global_request(packet)


class Sheds(asyncssh.SSHClientConnection):
    """What only the login needs is let go of after it: most connections are idle most of the time.

    From then on the host has that key which it has shown; nobody is asked about another.
    """

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._cleanup": "e92b0187",
        "connection.SSHConnection._process_kexinit": "8d751b89",
        "connection.SSHConnection._process_userauth_success": "35cb8cd6",
        "connection.SSHConnection.get_hash_prefix": "4c83702a",
    }
    HANDLES: ClassVar[dict[int, str]] = {
        constants.MSG_USERAUTH_SUCCESS: "_process_userauth_success"
    }

    def _process_userauth_success(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        super()._process_userauth_success(pkttype, pktid, packet)
        self._client_kexinit = self._server_kexinit = b""
        self._waiter = self._preferred_auth = None
        if not self._trusted_host_keys and self._server_host_key is not None:
            self._trusted_host_keys = {self._server_host_key}
        self._protocol_factory = asyncssh.SSHClient
        self._owner, self._extra = NOBODY, {}
        self._extensions_to_send = OrderedDict()


LOGIN_PARTS = (Recognises, Greets, Agrees, Signs, Sheds, Spares)
