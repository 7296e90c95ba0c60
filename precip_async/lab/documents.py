"""Replies as the EC2 query API writes them: XML from plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["error_document", "html_document", "response_document"]


def response_document(
    action: str, body: Mapping[str, Any], *, namespace: str, request_id: str | None
) -> bytes:
    """What answers an action.

    Args:
        action: Its name.
        body: Elements by their names. A list becomes ``item`` elements, a mapping elements in its
            order; ``None`` is left out, empty text is an empty element.
        namespace: The XML namespace.
        request_id: Its first element; ``None``: left out.
    """
    root = ET.Element(f"{action}Response", {"xmlns": namespace})
    if request_id is not None:
        ET.SubElement(root, "requestId").text = request_id
    _fill(root, body)
    return _written(root)


def error_document(code: str, message: str, *, request_id: str, empty: bool = False) -> bytes:
    """What says that a request was refused; `empty`: and not why."""
    # §2 "Errors", §4 "Errors" and §5 "Errors" have the same shape, without a namespace.
    root = ET.Element("Response")
    errors = ET.SubElement(root, "Errors")
    if not empty:
        error = ET.SubElement(errors, "Error")
        ET.SubElement(error, "Code").text = code
        ET.SubElement(error, "Message").text = message
    ET.SubElement(root, "RequestID").text = request_id
    return _written(root)


def html_document(title: str, text: str) -> bytes:
    """What web servers say that refuse before the API is reached."""
    root = ET.Element("html")
    ET.SubElement(ET.SubElement(root, "head"), "title").text = title
    body = ET.SubElement(root, "body")
    ET.SubElement(body, "h1").text = title
    ET.SubElement(body, "p").text = text
    written: bytes = ET.tostring(root, encoding="utf-8")
    return written


def _fill(element: ET.Element, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is not None:
            _put(ET.SubElement(element, name), value)


def _put(element: ET.Element, value: Any) -> None:
    if isinstance(value, dict):
        _fill(element, value)
    elif isinstance(value, list):
        for one in value:
            _put(ET.SubElement(element, "item"), one)
    elif isinstance(value, bool):
        element.text = "true" if value else "false"
    else:
        element.text = str(value)


def _written(root: ET.Element) -> bytes:
    written: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return written
