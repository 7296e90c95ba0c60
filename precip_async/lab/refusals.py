"""What the lab says no to."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        code: What Amazon calls the situation; each cloud's own word for it is in `answers`.
        message: What Amazon says.
        subject: What it is about, for clouds that say it in words of their own.
        status: Amazon's HTTP status.
    """

    def __init__(self, code: str, message: str, *, subject: str = "", status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.subject, self.status = code, message, subject, status
