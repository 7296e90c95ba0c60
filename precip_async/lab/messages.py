"""A request and a reply, whatever server they come and go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from precip_async.lab.refusals import Refusal

__all__ = ["FORM", "Reply", "Request"]

FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sent.

    Attributes:
        path: As sent: neither decoded nor put in order.
        query: Likewise.
        headers: Names in lower case, in the order sent.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header; empty where there is none."""
        return next((value for key, value in self.headers if key == name), "")

    def query_pairs(self) -> list[tuple[str, str]]:
        """The names and values after the question mark."""
        return _pairs(self.query.encode())

    def form_pairs(self) -> list[tuple[str, str]]:
        """The names and values of the body, where it is a form; else none."""
        kind = self.header("content-type").partition(";")[0].strip().lower()
        return _pairs(self.body) if self.method == "POST" and kind == FORM else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client is sent.

    Attributes:
        cut: Nothing is sent after all: the connection is reset.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "text/xml;charset=UTF-8"
    cut: bool = False


def _pairs(text: bytes) -> list[tuple[str, str]]:
    pairs = []
    for pair in text.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append((_decoded(name), _decoded(value)))
    return pairs


def _decoded(text: bytes) -> str:
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise Refusal("MalformedQueryString", "The query string is not UTF-8.") from error
