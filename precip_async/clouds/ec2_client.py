"""The only importer of aioboto3: sessions, credentials, signatures, HTTP and TLS.

What it says goes in as botocore's parameters and comes out as the cloud's own document; what goes
wrong comes out as an error of ours. Importing this takes a while: do it in a thread.
"""

from __future__ import annotations

import os
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aioboto3  # type: ignore[import-untyped] # it ships no types, and needs none for this
import aiohttp
import anyio
import anyio.to_thread
import botocore
import botocore.exceptions as vendor
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from botocore.httpsession import create_urllib3_context, get_cert_path

from precip_async.clouds.dialects import ACTIONS
from precip_async.clouds.ec2_credentials import Credentials, Redactor
from precip_async.clouds.ec2_documents import Unreadable, fault_of, parse
from precip_async.clouds.ec2_errors import Interpreter
from precip_async.clouds.ec2_model import Models
from precip_async.clouds.ec2_replies import BoundedReply
from precip_async.clouds.ec2_trouble import CONNECT_TIMEOUT, Redirected, explained, is_of_proxy
from precip_async.errors import CloudError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from xml.etree import ElementTree as ET

    from precip_async.clouds.dialects import Dialect

__all__ = ["Client"]

T = TypeVar("T")

SHORT: Final = 32 * 1024  # bytes of a document that is read on the loop: 1 ms
CONNECTIONS: Final = 20
CLOSE_GRACE: Final = 5.0  # seconds for closing connections
_HTTP_ERROR: Final = 300


class _Verbatim:
    """A "parser" that leaves the document alone: `ec2_documents` reads it. Also its factory."""

    def create_parser(self, protocol_name: str) -> _Verbatim:
        return self

    def set_parser_defaults(self, **kwargs: Any) -> None:
        """Part of what botocore expects of a factory; there is nothing to set."""

    async def parse(self, response: Mapping[str, Any], shape: Any) -> dict[str, Any]:
        return {
            "Document": response["body"],
            "ResponseMetadata": {
                "HTTPStatusCode": response["status_code"],
                "HTTPHeaders": {k.lower(): v for k, v in response["headers"].items()},
            },
        }


class Client:
    """A session with one cloud. Opened with `open`, to be closed with `aclose`.

    Args:
        dialect: Which cloud.
        url: Where; ``None``: where AWS has the region.
        region: What requests are signed for.
        credentials: Who asks.
        verify: How certificates are checked: True, False, or a file of authorities.
    """

    def __init__(
        self,
        *,
        dialect: Dialect,
        url: str | None,
        region: str,
        credentials: Credentials,
        verify: bool | str,
    ) -> None:
        self._dialect, self._url, self._region = dialect, url, region
        self._credentials, self._verify = credentials, verify
        self._redactor = Redactor(credentials.clean)
        self._context: Any = None
        self._client: Any = None
        self.speak(dialect)

    @property
    def url(self) -> str:
        """Where the cloud is spoken to."""
        return str(self._client.meta.endpoint_url) if self._client else self._url or ""

    @property
    def tell(self) -> Interpreter:
        """What makes errors of this cloud."""
        return self._tell

    def speak(self, dialect: Dialect) -> None:
        """Understand errors as those of `dialect`, of which it is known by now that it is it."""
        self._dialect = dialect
        place = self.url or f"the region {self._region}"
        self._tell = Interpreter(dialect, place, self._credentials.clean)

    async def open(self) -> None:
        """Find credentials and make ready; nothing is asked of the cloud yet.

        Raises:
            NotAuthorized: There are no credentials.
            InvalidArgument: `verify` is no file of certificates.
            CloudError: The configuration of AWS can't be read.
        """
        self._redactor.install()
        try:
            # abandoned when cancelled: a helper that is asked for credentials may never answer
            self._client, self._context = await anyio.to_thread.run_sync(
                self._prepare, abandon_on_cancel=True
            )
        except vendor.BotoCoreError as error:
            raise explained(self._tell, "prepare", error, 0) from error
        self.speak(self._dialect)

    async def aclose(self) -> None:
        """Close the connections."""
        self._redactor.remove()
        context, self._context = self._context, None
        if context is not None:
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await context.__aexit__(None, None, None)

    async def ask(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        read: Callable[[ET.Element], T],
        *,
        timeout: float,
    ) -> T:
        """Ask once, and read the answer.

        Args:
            operation: The name of the action.
            parameters: In botocore's names.
            read: Reads the document, in a thread if it is long.
            timeout: Seconds for the answer.

        Raises:
            CloudError: It was refused, or not answered.
        """
        if self._context is None:
            raise self._tell.invalid(operation, "it is closed, or was never opened")
        method = getattr(self._client, botocore.xform_name(operation))
        try:
            with anyio.fail_after(timeout):
                answer = await method(**parameters)
        except vendor.ClientError as error:
            answer = error.response
        except (vendor.BotoCoreError, TimeoutError) as error:
            if is_of_proxy(error):  # it shows the proxy's password
                raise explained(self._tell, operation, error, timeout) from None
            raise explained(self._tell, operation, error, timeout) from error
        document, facts = answer["Document"], answer["ResponseMetadata"]
        if facts["HTTPStatusCode"] >= _HTTP_ERROR:
            raise self._refusal(operation, document, facts)
        try:
            if len(document) <= SHORT:
                return self._read(operation, document, facts, read)
            return await anyio.to_thread.run_sync(self._read, operation, document, facts, read)
        except Unreadable as error:
            raise self._tell.unreadable(operation, str(error)) from error

    def _read(
        self,
        operation: str,
        document: bytes,
        facts: Mapping[str, Any],
        read: Callable[[ET.Element], T],
    ) -> T:
        root = parse(document)
        if root.find("Errors/Error") is not None:
            raise self._refusal(operation, document, facts)
        if not root.tag.endswith("Response"):
            raise Unreadable(f"a document of <{root.tag[:40]}>")
        return read(root)

    def _refusal(self, operation: str, document: bytes, facts: Mapping[str, Any]) -> CloudError:
        skew = _skew(facts["HTTPHeaders"].get("date"))
        return self._tell.refusal(operation, facts["HTTPStatusCode"], fault_of(document), skew)

    # -- making ready ------------------------------------------------------------------------

    def _prepare(self) -> tuple[Any, Any]:
        """Make the client, and what closes it. Blocks: it reads a model of half a megabyte."""
        self._credentials.find()
        session = self._credentials.session()
        session.register_component("credential_provider", self._credentials)
        session.register_component("response_parser_factory", _Verbatim())
        paths = (session.get_config_variable("data_path") or "").split(os.pathsep)
        session.register_component("data_loader", Models(ACTIONS, filter(None, paths)))
        bundle: Any = self._verify
        if bundle is True:
            bundle = session.get_config_variable("ca_bundle")
            bundle = bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True
        context = self._tls(bundle)
        # An idle connection that its server has just closed loses a request. Where one may not be
        # sent twice, each has a connection of its own.
        lonely = self._dialect.mark != "tags"

        class Sessions(AIOHTTPSession):
            """With hosts' names in certificates checked, and redirects not followed.

            The vendor does neither: credentials would go to whoever answers, or is pointed to.
            """

            async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
                inherited: Any = super()
                session: aiohttp.ClientSession = await inherited._get_session(proxy_url)  # noqa: SLF001 - there is no other way in
                if not session.trace_configs:
                    session.trace_configs.append(_watching_redirects())
                    session._response_class = BoundedReply  # noqa: SLF001 - likewise
                return session

            def _create_connector(self, proxy_url: str | None) -> aiohttp.TCPConnector:
                # behind a proxy as well, where the vendor checks nothing at all
                return aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context, force_close=lonely)

        client = aioboto3.Session(botocore_session=session).client(
            "ec2",
            region_name=self._region,
            endpoint_url=self._url,
            verify=bundle,
            config=AioConfig(
                http_session_cls=Sessions,
                signature_version=self._dialect.signature,
                defaults_mode="legacy",  # "auto" would ask the network where it is
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=self._dialect.read_timeout + CONNECT_TIMEOUT,
                retries={"total_max_attempts": 1, "mode": "standard"},  # ours: see `ec2_calls`
            ),
        )
        return _stepped(client.__aenter__()), client

    def _tls(self, bundle: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = create_urllib3_context()
        if self._dialect.old_tls:
            # clouds.md, section 1.14: servers of that age speak nothing newer
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.set_ciphers("ALL:@SECLEVEL=0")
        if bundle is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        try:
            context.load_verify_locations(get_cert_path(bundle))
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(
                f"verify: {bundle} is no file of certificates: {error}"
            ) from error
        return context


def _stepped(coroutine: Coroutine[Any, Any, T]) -> T:
    """What `coroutine` returns, which waits for nothing, without an event loop.

    Making a client reads files and builds classes, and is a coroutine for form's sake only: on the
    loop it would keep everybody waiting.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return] # typed as anything
    coroutine.close()
    raise RuntimeError("making a client of aioboto3 waits for something: it must not")


def _watching_redirects() -> aiohttp.TraceConfig:
    async def refuse(*facts: Any) -> None:
        raise Redirected(facts[-1].response.headers.get("Location", "nowhere"))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    trace.freeze()
    return trace


def _skew(date: str | None) -> float | None:
    """Seconds that the clock which wrote `date` is ahead of ours, as far as that says anything."""
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except (TypeError, ValueError):
        return None
