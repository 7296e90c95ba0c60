"""What each cloud calls the situations that Amazon has a code for."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from precip_async.lab.documents import error_document, html_document
from precip_async.lab.messages import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.lab.dialects import Dialect
    from precip_async.lab.refusals import Refusal

__all__ = ["AMAZON_ANSWERS", "Answer", "refusal_reply"]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a cloud refuses.

    Attributes:
        code: Its word for it.
        status: The HTTP status; ``None``: Amazon's.
        message: What it says, ``{subject}`` being what it is about; empty: what Amazon says.
        html: Whether it is a page of HTML instead of a document.
        own: Whether the code is this also where codes are the names of messages.
    """

    code: str
    status: int | None = None
    message: str = ""
    html: bool = False
    own: bool = False


_NOT_VALID: Final = "AWS was not able to validate the provided access credentials"

#: What is Amazon's already needs no translation. [K] where no section is named.
AMAZON_ANSWERS: Final[Mapping[str, Answer]] = {
    "unsigned": Answer("MissingParameter"),
    "key-not-found-to-run": Answer("InvalidKeyPair.NotFound"),
    "unknown-key": Answer("AuthFailure", 401, _NOT_VALID),
    "wrong-signature": Answer("AuthFailure", 401, _NOT_VALID),
    "wrong-region": Answer("AuthFailure", 401),
    "expired": Answer("RequestExpired"),
    "throttled": Answer("RequestLimitExceeded", 503, "Request limit exceeded."),  # §6 "throttle"
    "broken": Answer("InternalError", 500, "An internal error has occurred"),
    "crash": Answer("InternalError", 500, "An internal error has occurred"),
}


def refusal_reply(refusal: Refusal, dialect: Dialect, action: str, request_id: str) -> Reply:
    """How a cloud says no.

    Args:
        refusal: To what.
        dialect: Which cloud.
        action: What was asked for; empty where that can't be said.
        request_id: The request's.
    """
    answer = dialect.answers.get(refusal.code, Answer(refusal.code))
    status = answer.status or dialect.one_status or refusal.status
    message = answer.message.format(subject=refusal.subject) or refusal.message
    if answer.html:
        title = f"{status} {HTTPStatus(status).phrase}"
        return Reply(status=status, body=html_document(title, message), content_type="text/html")
    code = f"{action}Type" if dialect.error_code == "action" and not answer.own else answer.code
    document = error_document(
        code.format(subject=refusal.subject),
        message,
        request_id=request_id,
        request_id_name="RequestID",
    )
    return Reply(status=status, body=document, content_type=dialect.error_type)
