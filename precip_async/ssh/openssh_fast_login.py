"""Faster ways of asyncssh's connections through a login: one request, and nothing kept of it.

Parts of `openssh_fast`, which says what a part is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import asyncssh
from asyncssh import constants
from asyncssh.auth import ClientAuth
from asyncssh.packet import Boolean, Byte, String
from asyncssh.public_key import SSHLocalKeyPair

if TYPE_CHECKING:
    from collections import OrderedDict

    from asyncssh.packet import SSHPacket

__all__ = ["LOGIN_PARTS", "Sheds", "Signs", "Spares"]

KINDS = 64  # of server that are remembered
PUBLICKEY, NONE = b"publickey", b"none"
HOST_KEYS = b"".join(  # and no answer wanted
    (Byte(constants.MSG_GLOBAL_REQUEST), String(b"hostkeys-00@openssh.com"), Boolean(False))
)
NOTHING: list[Any] = []
NOBODY = asyncssh.SSHClient()


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
            if len(self._told) >= KINDS:
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
        if self._kex_complete:  # else another exchange is under way, which needs them
            self._client_kexinit = self._server_kexinit = b""
        self._waiter = self._preferred_auth = None
        self._auth_methods = self._client_keys = self._client_host_keys = NOTHING
        self._trusted_host_key_algs = NOTHING
        self._x509_trusted_subjects = self._x509_revoked_subjects = NOTHING
        if not self._trusted_host_keys and self._server_host_key is not None:
            self._trusted_host_keys = {self._server_host_key}
        self._protocol_factory = asyncssh.SSHClient
        self._owner, self._extra = NOBODY, {}
        self._extensions_to_send = cast("OrderedDict[bytes, bytes]", {})


class Spares(asyncssh.SSHClientConnection):
    """No look at the host keys that OpenSSH tells of after each login: nobody here listens."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._process_global_request": "81d2a86c",
        "connection.SSHClientConnection."
        "_process_hostkeys_00_at_openssh_dot_com_global_request": "a21eb3e2",
        "connection.SSHClientConnection._finish_hostkeys": "c51cc880",
    }
    HANDLES: ClassVar[dict[int, str]] = {constants.MSG_GLOBAL_REQUEST: "_process_global_request"}

    def _process_global_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        said = packet.get_full_payload()
        if not said.startswith(HOST_KEYS) or self._server_host_keys_handler is not None:
            super()._process_global_request(pkttype, pktid, packet)


LOGIN_PARTS = (Signs, Sheds, Spares)
