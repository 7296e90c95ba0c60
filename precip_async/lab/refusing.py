"""How a cloud says no: a refusal, in its words and its kind of document."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from precip_async.lab.answers import Answer
from precip_async.lab.documents import error_document, html_document
from precip_async.lab.messages import Reply

if TYPE_CHECKING:
    from precip_async.lab.dialects import Dialect
    from precip_async.lab.refusals import Refusal

__all__ = ["refusal_reply"]

#: §4 "Errors": what Eucalyptus 3.2 has instead of a request's id.
_STACK_TRACE: Final = (
    "com.eucalyptus.util.EucalyptusCloudException: {message}\n"
    "\tat com.eucalyptus.ws.util.ReplyQueue.handle(ReplyQueue.java:97)\n"
)


def refusal_reply(refusal: Refusal, dialect: Dialect, action: str, request_id: str) -> Reply:
    """What a refused request is answered with.

    Args:
        refusal: To what.
        dialect: Which cloud.
        action: What was asked for; empty where that can't be said.
        request_id: The request's.
    """
    answer = dialect.answers.get(refusal.code, Answer(refusal.code))
    status = answer.status or dialect.one_status or refusal.status
    message = refusal.message
    if answer.message is not None:
        message = answer.message.format(subject=refusal.subject)
    if answer.html:
        title = f"{status} {HTTPStatus(status).phrase}"
        return Reply(status=status, body=html_document(title, message), content_type="text/html")
    by_message = dialect.named_by_message and not answer.plain
    if by_message:
        request_id = _STACK_TRACE.format(message=message)
    document = error_document(
        f"{action}Type" if by_message else answer.code.format(subject=refusal.subject),
        message,
        request_id=request_id,
        empty=answer.empty,
    )
    if not dialect.escapes:
        document = document.replace(b"&amp;", b"&")  # which is no XML any more
    return Reply(
        status=status,
        body=document,
        content_type="text/plain" if answer.plain else "text/xml;charset=UTF-8",
    )
