"""Replies of a cloud, or of whoever answers in its place, that can't take all of our memory."""

from __future__ import annotations

from typing import Final

import aiohttp

__all__ = ["LONGEST", "BoundedReply"]

# A thousand instances take 3 MB of a document; clouds that know no pages have had 10 000.
LONGEST: Final = 64 * 1024 * 1024  # bytes


class BoundedReply(aiohttp.ClientResponse):
    """A reply that is read up to `LONGEST` bytes; a longer one breaks its connection."""

    async def read(self) -> bytes:
        """The body, which is kept.

        Raises:
            aiohttp.ClientPayloadError: There is no end to it.
        """
        if self._body is None:
            parts, size = list[bytes](), 0
            async for part in self.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > LONGEST:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"the answer is longer than {LONGEST} bytes")
            self._body = b"".join(parts)
        return self._body
