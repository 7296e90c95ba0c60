"""Faster ways of asyncssh's connections with packets: fewer, cheaper, and several in one write.

Parts of `openssh_fast`, which says what a part is.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Any, ClassVar

import asyncssh
from asyncssh import constants
from asyncssh.crypto import cipher as ciphers
from asyncssh.encryption import Encryption
from asyncssh.kex_dh import MSG_KEX_ECDH_INIT
from asyncssh.logging import SSHLogger
from asyncssh.packet import PacketDecodeError, SSHPacket, SSHPacketHandler

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacketLogger

__all__ = ["PACKET_PARTS", "Gathers", "Hushed", "Mute", "Packs", "Quiet", "Rests", "Seal", "Seals"]

LENGTH = 4  # bytes, of which the length of a packet consists
TAG = BLOCK = 16  # bytes of AES-GCM
NONCE = 12  # likewise
KEYS = {b"aes128-gcm@openssh.com": 16, b"aes256-gcm@openssh.com": 32}  # likewise, by its names
LEAST_PADDING = 4
CLEAR = (constants.MSG_KEXINIT, MSG_KEX_ECDH_INIT, constants.MSG_NEWKEYS)  # until there are keys
SHORTEST = 2  # bytes: how much padding, and the type
DUMPS = 3  # asyncssh's debug level at which each packet is logged
BYTES = [bytes((number,)) for number in range(256)]


class Gathers(asyncssh.SSHClientConnection):
    """One write for all that is sent while a read is dealt with, or in one turn of the loop.

    Else each packet is a system call and, as asyncssh turns Nagle's algorithm off, a segment.
    """

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._send": "93367b23",
        "connection.SSHConnection.data_received": "18ebb0ab",
        "connection.SSHConnection._force_close": "767f4ff8",
    }
    _receiving = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._gathered: list[bytes] = []
        super().__init__(*args, **settings)

    def _send(self, data: bytes) -> None:
        if not self._gathered and not self._receiving:
            self._loop.call_soon(self._write)
        self._gathered.append(data)

    def _write(self) -> None:
        if self._gathered:
            data = b"".join(self._gathered)
            self._gathered.clear()
            super()._send(data)

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        self._receiving = True
        try:
            super().data_received(data, datatype)
        finally:
            self._receiving = False
            self._write()

    def _force_close(self, exc: Exception | None) -> None:
        self._write()  # why we close may be among it
        super()._force_close(exc)


class Quiet(asyncssh.SSHClientConnection):
    """No MSG_IGNORE before each packet: it mends what is wrong with CBC, and with nothing else."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection.send_packet": "76358b73",
    }

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        if pkttype != constants.MSG_IGNORE or self._enc_alg_cs.endswith(b"-cbc"):
            super().send_packet(pkttype, *args, handler=handler)


class Seal(Encryption):
    """AES-GCM with one cipher object for all packets; asyncssh's makes one for each."""

    __slots__ = ("_aead", "_count", "_fixed", "opened")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._aead = ciphers.AESGCM(key)  # type: ignore[attr-defined]  # it only imports it
        self._fixed, self._count = nonce[:4], int.from_bytes(nonce[4:], "big")
        self.opened: bytes | None = None  # the next packet, where it was looked into already

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return header + self._aead.encrypt(self._nonce(), packet, header), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, first_block[:header_len]

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        if self.opened is not None:
            opened, self.opened = self.opened, None
            return opened
        return self.open(first[:header_len], first[header_len:] + rest + mac)

    def open(self, header: bytes, sealed: bytes) -> bytes | None:
        """What is in `sealed`, which ends with its tag; ``None`` where it was tampered with."""
        try:
            opened: bytes = self._aead.decrypt(self._nonce(), sealed, header)
        except ciphers.InvalidTag:  # type: ignore[attr-defined]  # likewise
            return None
        return opened

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._count.to_bytes(8, "big")
        self._count = (self._count + 1) & 0xFFFF_FFFF_FFFF_FFFF
        return nonce


class Seals(asyncssh.SSHClientConnection):
    """AES-GCM by `Seal`, whose keys are derived from one hash that is taken once."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._process_newkeys": "279ae414",
        "connection.SSHConnection.send_newkeys": "152160e5",
        "encryption.GCMEncryption.__init__": "94089a6e",
        "encryption.GCMEncryption.encrypt_packet": "1efc09c8",
        "encryption.GCMEncryption.decrypt_header": "eade04e5",
        "encryption.GCMEncryption.decrypt_packet": "87656139",
        "crypto.cipher.GCMCipher.__init__": "ad3a511e",
        "crypto.cipher.GCMCipher.encrypt_and_sign": "0ad6508b",
        "crypto.cipher.GCMCipher.verify_and_decrypt": "5e144a3e",
        "crypto.cipher.GCMCipher._update_iv": "e77ee1bc",
        "kex.Kex.compute_key": "7efd1745",
    }

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        ours, theirs = KEYS.get(self._enc_alg_cs), KEYS.get(self._enc_alg_sc)
        uncompressed = self._cmp_alg_cs == self._cmp_alg_sc == b"none"
        assert self._kex is not None
        shared = self._kex._hash_alg(k + h)
        if not ours or not theirs or not uncompressed or shared.digest_size < max(ours, theirs):
            super().send_newkeys(k, h)
            return
        first, self._session_id = not self._session_id, self._session_id or h
        self._kex = None
        derived = functools.partial(_derived, shared, self._session_id)
        self.send_packet(constants.MSG_NEWKEYS)  # the last one under the old keys
        self._send_encryption = Seal(derived(b"C", ours), derived(b"A", NONCE))
        self._next_recv_encryption = Seal(derived(b"D", theirs), derived(b"B", NONCE))
        self._send_enchdrlen, self._send_blocksize = 1, BLOCK
        self._next_recv_blocksize, self._next_recv_macsize = BLOCK, TAG
        if self._can_send_ext_info:
            self._extensions_to_send[b"global-requests-ok"] = b""
            self._send_ext_info()
            self._can_send_ext_info = False
        self._kex_complete = True
        if first:
            self.send_service_request(b"ssh-userauth")
        self._send_deferred_packets()


def _derived(shared: Any, session: bytes, letter: bytes, length: int) -> bytes:
    """A key as RFC 4253, section 7.2, has it, which is not longer than the hash."""
    one = shared.copy()
    one.update(letter + session)
    key: bytes = one.digest()[:length]
    return key


class Packs(asyncssh.SSHClientConnection):
    """The usual packet without the unusual cases, each of which is left to asyncssh.

    Usual is a packet in the clear or under a `Seal`, uncompressed, that has its handler; and, to be
    sent, one of the first key exchange, or of the login or after it while no new keys are due.
    """

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection.send_packet": "76358b73",
        "connection.SSHConnection._recv_pkthdr": "00aadedf",
        "connection.SSHConnection._recv_packet": "7139c629",
        "connection.SSHConnection._finish_recv_packet": "4402d1e6",
        "packet.SSHPacket.__init__": "855ed18a",
        "packet.SSHPacketHandler.process_packet": "07142a1c",
        **Seals.RELIES_ON,
    }

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        cipher = self._send_encryption
        if cipher is None and pkttype in CLEAR and SSHLogger._debug_level < DUMPS:
            header, packet = _packed(pkttype, args, block=8, uncounted=0)
            self._send(header + packet)
            begins_anew = pkttype == constants.MSG_NEWKEYS and self._strict_kex
            self._send_seq = 0 if begins_anew else self._send_seq + 1
            return
        if (
            type(cipher) is not Seal
            or not self._kex_complete
            or (pkttype <= constants.MSG_KEX_LAST and pkttype != constants.MSG_SERVICE_REQUEST)
            or (pkttype > constants.MSG_USERAUTH_LAST and not self._auth_complete)
            or self._compressor is not None
            or self._rekey_bytes_sent >= self._rekey_bytes
            or (self._rekey_seconds and time.monotonic() >= self._rekey_time)
            or SSHLogger._debug_level >= DUMPS
        ):
            super().send_packet(pkttype, *args, handler=handler)
            return
        header, packet = _packed(pkttype, args, block=BLOCK, uncounted=LENGTH)
        self._send(cipher.encrypt_packet(self._send_seq, header, packet)[0])
        self._send_seq = (self._send_seq + 1) & 0xFFFF_FFFF
        self._rekey_bytes_sent += len(packet)

    def _recv_pkthdr(self) -> bool:
        cipher, data = self._recv_encryption, self._inpbuf
        header = data[:LENGTH]
        length = int.from_bytes(header, "big")
        end = LENGTH + length + (0 if cipher is None else TAG)
        if (
            not (cipher is None or type(cipher) is Seal)
            or not BLOCK <= end <= len(data)
            or length > self._max_recv_pktlen
            or self._decompressor is not None
            or SSHLogger._debug_level >= DUMPS
        ):
            return super()._recv_pkthdr()
        plain: bytes | None = data[LENGTH:end]
        if type(cipher) is Seal:
            plain = cipher.open(header, data[LENGTH:end])
        if plain is None or len(plain) < SHORTEST:
            raise asyncssh.MACError("MAC verification failed")
        kind = plain[1]
        handler = self._handler_of(kind, plain)
        process = None if handler is None else handler._packet_handlers.get(kind)
        if process is None:
            if type(cipher) is Seal:
                cipher.opened = plain
            return super()._recv_pkthdr()
        self._inpbuf = data[end:]
        packet = SSHPacket(plain[1 : -plain[0]])
        packet._idx = 1 if kind < constants.MSG_CHANNEL_FIRST else 5  # the channel is read, too
        seq = self._recv_seq
        try:
            later = process(handler, kind, seq, packet)
        except PacketDecodeError as error:
            raise asyncssh.ProtocolError(str(error)) from None
        if later is None:
            self._finish_recv_packet(kind, seq)
            return True
        self._recv_handler = lambda: False  # what follows waits for this one
        task = self.create_task(later)
        task.add_done_callback(
            functools.partial(self._finish_recv_packet, kind, seq, is_async=True)
        )
        return False

    def _handler_of(self, kind: int, plain: bytes) -> SSHPacketHandler | None:
        """Whose a packet is that may come now; ``None``: asyncssh has to say."""
        if kind >= constants.MSG_CHANNEL_FIRST:
            if self._auth_complete:
                return self._channels.get(int.from_bytes(plain[2:6], "big"))
            return None
        if constants.MSG_KEX_FIRST <= kind <= constants.MSG_KEX_LAST:
            return None if self._ignore_first_kex else self._kex
        if self._recv_encryption is None:
            return self if kind in (constants.MSG_KEXINIT, constants.MSG_NEWKEYS) else None
        if constants.MSG_USERAUTH_FIRST <= kind <= constants.MSG_USERAUTH_LAST:
            return self._auth
        if kind > constants.MSG_USERAUTH_LAST and not self._auth_complete:
            return None
        return self


def _packed(kind: int, args: tuple[bytes, ...], block: int, uncounted: int) -> tuple[bytes, bytes]:
    """A packet padded to whole blocks, of which `uncounted` bytes of its length are no part."""
    payload = b"".join((BYTES[kind], *args))
    padding = -(LENGTH - uncounted + 1 + len(payload)) % block
    if padding < LEAST_PADDING:
        padding += block
    packet = b"".join((BYTES[padding], payload, os.urandom(padding)))
    return len(packet).to_bytes(LENGTH, "big"), packet


class Rests(asyncssh.SSHClientConnection):
    """A keepalive timer that is not reset by each read, but looks when it was last heard of."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "connection.SSHConnection._reset_keepalive_timer": "3dcaf722",
        "connection.SSHConnection._set_keepalive_timer": "2e435a51",
        "connection.SSHConnection._cancel_keepalive_timer": "a9fa8978",
        "connection.SSHConnection._keepalive_timer_callback": "1b43b14b",
    }
    _heard_at = 0.0

    def _reset_keepalive_timer(self) -> None:
        self._heard_at = self._loop.time()

    def _keepalive_timer_callback(self) -> None:
        left = self._heard_at + self._keepalive_interval - self._loop.time()
        if left > 0:
            self._keepalive_timer = self._loop.call_later(left, self._keepalive_timer_callback)
        else:
            super()._keepalive_timer_callback()


class Mute(SSHLogger):
    """Says nothing below a warning, at no cost."""

    def info(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Say nothing."""

    debug1 = debug2 = info

    def get_child(self, child: str = "", context: str = "") -> SSHLogger:
        """Itself: asyncssh has no warnings."""
        return self

    def packet(self, pktid: int | None, packet: bytes, msg: str, *args: Any, **kwargs: Any) -> None:
        """Say nothing."""


MUTE = Mute(logging.getLogger("asyncssh"))


class Hushed(asyncssh.SSHClientConnection):
    """No formatting of log lines that nobody reads; whether somebody does is asked at its start."""

    RELIES_ON: ClassVar[dict[str, str]] = {
        "logging.SSHLogger.__init__": "f5828e71",
        "logging.SSHLogger.get_child": "29836adb",
        "logging.SSHLogger.log": "15ada5e6",
        "logging.SSHLogger.debug1": "c85f9480",
        "logging.SSHLogger.debug2": "c0efef5b",
        "logging.SSHLogger.packet": "1c674a47",
    }

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if not self._logger.isEnabledFor(logging.INFO):
            self._logger = MUTE  # for its channels and its key exchange as well


PACKET_PARTS = (Gathers, Packs, Quiet, Seals, Rests, Hushed)
