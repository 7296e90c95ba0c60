"""Who asks a cloud: credentials, and keeping them out of what is said and written down.

Importing this takes a while, as `ec2_client` does: do it in a thread.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import anyio.to_thread
import botocore.session
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import Credentials as FixedCredentials
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    CredentialRetrievalError,
    NoCredentialsError,
    ProfileNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Credentials", "Redactor"]

_LOGGERS: Final = ("aioboto3", "aiobotocore", "aiohttp", "boto3", "botocore", "urllib3")

# Of a proxy, say: "http://me:password@proxy".
_IN_URL: Final = re.compile(r"(?<=://)[^/\s'\"@]+@")
# What the chain is handed by others is logged before anybody knows that it is a secret.
_NAMED: Final = re.compile(
    r"""((?:secret_?(?:access_?)?key|client_?secret|"token"
        |(?:session|security|access|refresh|bearer|identity|id)[_-]?token)
        ["']?\s*[>:=]\s*(?:b?["'])?)[^<"'\s&,]+""",
    re.IGNORECASE | re.VERBOSE,
)


class Credentials:
    """Who asks: keys that were given, or whatever the standard chain of AWS finds.

    The chain is botocore's own and blocks, and so does renewing what it finds: both in threads.
    """

    def __init__(
        self,
        access_key: str | None,
        secret_key: str | None,
        session_token: str | None,
        profile: str | None,
    ) -> None:
        self._given = (access_key, secret_key, session_token)
        self.profile = profile
        self._found: Any = None
        self.secrets: set[str] = set()
        self._keep_secret(*self._given)

    def __repr__(self) -> str:
        return "Credentials(***)"

    def find(self) -> None:
        """Find them. Blocks: reads files, may ask the network.

        Raises:
            BotoCoreError: There are none, or they can't be read.
        """
        access_key, secret_key, token = self._given
        if access_key and secret_key:
            self._found = FixedCredentials(access_key, secret_key, token)
        else:
            session = botocore.session.Session(profile=self.profile)
            self._found = _asked(session.get_credentials)
        if self._found is None:
            raise NoCredentialsError
        self._freeze()

    def session(self) -> AioSession:
        """Where settings of AWS are read from: its files, by the profile that is in force."""
        session = AioSession(profile=self.profile)
        if all(self._given[:2]):
            try:
                session.get_scoped_config()
            except ProfileNotFound:  # of the environment, which whoever gives keys did not ask
                return AioSession(session_vars={"profile": (None, [], None, None)})
        return session

    async def load_credentials(self) -> AioCredentials:
        """What a session of aiobotocore asks its provider of credentials for."""
        return _Current(self)

    async def current(self) -> Any:
        """The keys of this moment, renewed where they have expired.

        Raises:
            BotoCoreError: They can't be renewed.
        """
        if isinstance(self._found, RefreshableCredentials):
            # abandoned when its time is up: a helper that is asked for keys may never answer
            return await anyio.to_thread.run_sync(self._freeze, abandon_on_cancel=True)
        return self._freeze()

    def _freeze(self) -> Any:
        frozen = _asked(self._found.get_frozen_credentials)
        self._keep_secret(frozen.access_key, frozen.secret_key, frozen.token)
        return frozen

    def _keep_secret(self, *texts: str | None) -> None:
        self.secrets |= {
            form for text in texts if text for form in (text, quote(text, safe="-_.~"))
        }

    def clean(self, text: str) -> str:
        """`text` without what must not be read."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return _IN_URL.sub("***@", text)


def _asked(chain: Callable[[], Any]) -> Any:
    """What `chain` finds; else an error of the vendor's about credentials.

    It lets pass what befalls it: that a helper is not there or prints no sense, that a file can't
    be read, that a role is refused, which is a `ClientError` of another service.

    Raises:
        BotoCoreError: There is nothing to be found.
    """
    try:
        return chain()
    except BotoCoreError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        said = f"{type(error).__name__}: {error}"
    # not from within: what a helper has printed hangs on some errors, secrets and all
    raise CredentialRetrievalError(provider="the standard chain of AWS", error_msg=said)


class _Current(AioCredentials):
    """What a signer of aiobotocore asks for the keys, each time that it signs."""

    def __init__(self, source: Credentials) -> None:
        super().__init__("", "")  # what is renewed is not kept here
        self._source = source

    async def get_frozen_credentials(self) -> Any:  # type: ignore[override] # as all of aiobotocore's
        return await self._source.current()


_FORMATTER: Final = logging.Formatter()


class Redactor(logging.Filter):
    """Takes credentials out of what the vendor's loggers say; while a client is open."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._clean = clean

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without credentials."""
        # the arguments are not kept: among them are parameters that are signed only afterwards
        record.msg, record.args = self._cleaned(record.getMessage()), ()
        if record.exc_info:  # likewise: errors on the way may hold the URL of a proxy
            record.exc_text = self._cleaned(_FORMATTER.formatException(record.exc_info))
            record.exc_info = None
        return True

    def _cleaned(self, text: str) -> str:
        return self._clean(_NAMED.sub(r"\1***", text))

    def install(self) -> None:
        """Begin: until `remove`, no record of the vendor's holds a credential."""
        for logger in self._loggers():
            logger.addFilter(self)

    def remove(self) -> None:
        """Leave the vendor's loggers as they were."""
        for logger in self._loggers():
            logger.removeFilter(self)

    def _loggers(self) -> list[logging.Logger]:
        # a filter sees only what is said to its own logger, not to those below it
        names = [*logging.root.manager.loggerDict]
        return [logging.getLogger(name) for name in names if name.split(".")[0] in _LOGGERS]
