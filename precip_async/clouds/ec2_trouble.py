"""What the vendor's exceptions stand for, as errors of ours: they stop here."""

from __future__ import annotations

import errno
import re
import socket
from typing import Final

import aiohttp
import botocore.exceptions as vendor

from precip_async.clouds.ec2_errors import (
    PROXY,
    Interpreter,
    ReplyLost,
    Unanswered,
    WrongEndpoint,
)
from precip_async.errors import CloudError, EndpointUnreachable

__all__ = ["CONNECT_TIMEOUT", "Redirected", "explained", "is_of_proxy"]

CONNECT_TIMEOUT: Final = 8.0  # seconds for one attempt to connect


class Redirected(Exception):
    """The endpoint points elsewhere; the message says where. Requests are signed for one place."""


def explained(tell: Interpreter, operation: str, error: Exception, timeout: float) -> CloudError:
    """What an exception of the vendor's stands for; see `tests/clouds/test_ec2_client.py`."""
    match error:
        case TimeoutError() | vendor.ReadTimeoutError():
            problem = f"no answer within {timeout:.0f} s"
            return tell.silence(operation, problem, "try again, or see the cloud", Unanswered)
        case vendor.SSLError():
            return tell.silence(operation, *_tls_trouble(error), WrongEndpoint)
        case vendor.ConnectTimeoutError():
            problem = f"no connection within {CONNECT_TIMEOUT:.0f} s: it is filtered, down or mute"
            hint = "check the endpoint, and the network in between"
            return tell.silence(operation, problem, hint, EndpointUnreachable)
        case vendor.ProxyConnectionError():
            refusal = error.kwargs.get("error")
            problem = f"{error}{_refused_by(refusal)}"
            return tell.silence(operation, problem, PROXY, EndpointUnreachable)
        case vendor.HTTPClientError() | vendor.ConnectionError():
            return tell.silence(operation, *_connection_trouble(error))
        case vendor.ParamValidationError():
            report = " ".join(str(error.kwargs["report"]).split())
            return tell.invalid(operation, f"not asked: {report}", "see options=")
        case _ if _is_about_credentials(error):
            return tell.no_credentials(operation, str(error))
    return tell.invalid(operation, str(error), "see the configuration of AWS, and the arguments")


# A server that is spoken to without TLS, and wants it, says something else or nothing.
_PLAIN: Final = "try again; check the endpoint's port, and whether it is https:// or http://"
_ABOUT_CREDENTIALS: Final = re.compile(r"Credential|Token|SSO|Auth|Profile|AssumeRole|MFA|Login")


def is_of_proxy(error: Exception) -> bool:
    """Whether an exception of the vendor's is about the proxy, not about who is behind it."""
    cause = getattr(error, "kwargs", {}).get("error")
    return isinstance(error, vendor.ProxyConnectionError) or isinstance(cause, aiohttp.InvalidURL)


def _refused_by(error: object) -> str:
    """What a proxy has answered that is there, and does not connect us."""
    if not isinstance(error, aiohttp.ClientHttpProxyError):
        return ""
    return f": it answers {error.status} {' '.join(str(error.message).split())}"


def _is_about_credentials(error: Exception) -> bool:
    names = (kind.__name__ for kind in type(error).__mro__)
    return any(_ABOUT_CREDENTIALS.search(name) for name in names)


def _tls_trouble(error: vendor.SSLError) -> tuple[str, str]:
    said = str(error.kwargs.get("error", error))
    if "WRONG_VERSION_NUMBER" in said or "record layer failure" in said:
        return "what answers there does not speak TLS", "give the endpoint as http://…"
    if found := re.search(r"certificate verify failed: (.*?)\s*\(_ssl", said):
        return f"its certificate can't be believed: {found[1]}", (
            "check the endpoint's host; for an authority of your own give verify=<its file>"
        )
    return f"no TLS connection can be made: {said}", "check the endpoint"


def _connection_trouble(error: Exception) -> tuple[str, str, type[EndpointUnreachable]]:
    """What happened to a connection, what to do, and whether the request may have arrived."""
    cause = getattr(error, "kwargs", {}).get("error", error)
    if isinstance(cause, Redirected):
        return f"it points to {cause}", "give that as the endpoint if you trust it", WrongEndpoint
    if isinstance(cause, aiohttp.InvalidURL):  # the endpoint was looked at; a password may be in it
        return "the URL of the proxy is none", PROXY, WrongEndpoint
    if isinstance(cause, aiohttp.ClientResponseError):
        words = " ".join(str(cause.message).split())
        return f"what answers there does not speak HTTP: {words}", _PLAIN, ReplyLost
    if not isinstance(cause, aiohttp.ClientConnectorError | socket.gaierror):
        return f"the connection broke: {cause or type(cause).__name__}", _PLAIN, ReplyLost
    reason = getattr(cause, "os_error", cause)
    if isinstance(reason, socket.gaierror):
        passing = reason.errno == socket.EAI_AGAIN
        kind = EndpointUnreachable if passing else WrongEndpoint
        return "there is no host of this name", "check the endpoint and the region", kind
    said = str(reason)
    if reason.errno == errno.ECONNREFUSED or "Errno 111" in said or "refused" in said.lower():
        problem = "nobody listens there (connection refused)"
        return problem, "check the endpoint's host and port", EndpointUnreachable
    return (
        f"it can't be reached: {said}",
        "check the endpoint, and the network",
        EndpointUnreachable,
    )
