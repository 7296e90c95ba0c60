"""Requests to a metadata service, as they come over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.clouds.local.metadata import Ask
from precip_async.clouds.local.metadata_http import _read_request


def test_a_request_is_read_once_it_is_whole() -> None:
    """With its headers whatever their case, and its body, which nobody looks at."""
    whole = b"PUT /latest/api/token HTTP/1.1\r\nX-Some: thing\r\nContent-Length: 2\r\n\r\nok"
    parts = [whole[:length] for length in range(len(whole))]

    assert {_read_request(part) for part in parts} == {None}
    assert _read_request(whole) == Ask(
        method="PUT",
        path="/latest/api/token",
        headers={"x-some": "thing", "content-length": "2"},
    )


@pytest.mark.parametrize("length", ["", "x", "-1", "9" * 5000, "\u00b2"])
def test_a_length_that_is_none_is_not_waited_for(length: str) -> None:
    """Nobody looks at the body anyway."""
    read = f"GET / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin-1")

    assert _read_request(read) is not None


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_nothing_makes_it_fall_over(noise: bytes, length: bytes) -> None:
    """Whatever comes, it is a request or not one yet."""
    for read in (noise, noise + b"\r\n\r\n", noise + b"\r\nContent-Length:" + length + b"\r\n\r\n"):
        assert isinstance(_read_request(read), Ask | None)
