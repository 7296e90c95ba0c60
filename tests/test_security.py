"""What docs/security.md claims: that its tests exist, and that no secret leaves its place."""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import logging
import re
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.on_clouds import rehearsed
from tests.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.lab.service import LabCall

PAGE = ROOT / "docs" / "security.md"
CLAIM = re.compile(r"^- `(tests/[\w/]+\.py)::(\w+)`$", re.MULTILINE)
BOLD = re.compile(r"^\*\*", re.MULTILINE)


def test_every_claim_of_the_page_has_tests_that_exist() -> None:
    """What is named there is a test, and no claim stands without one."""
    page = PAGE.read_text().partition("## What we do not defend against")[0]
    missing = [
        f"{path}::{name}"
        for path, name in CLAIM.findall(page)
        if name
        not in {getattr(node, "name", "") for node in ast.parse((ROOT / path).read_text()).body}
    ]

    assert missing == []
    for claim in BOLD.split(page)[1:]:
        assert CLAIM.search(claim), claim


def opened(call: LabCall) -> str:
    """The parameters of a call, and what is in those that are packed."""
    text = str(call.parameters)
    for value in call.parameters.values():
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            text += base64.b64decode(value, validate=True).decode()
    return text


@pytest.mark.parametrize("dialect", ["amazon", "nova-essex"])
async def test_no_secret_leaves_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dialect: str
) -> None:
    """Whatever is logged, announced, sent to the cloud or written down holds none of them."""
    caplog.set_level(logging.DEBUG)
    async with rehearsed(tmp_path, dialect) as there:
        async with there.exp as exp:
            await exp.provision(there.image, user_data="#!/bin/sh\ntrue\n")
            await exp.wait(timeout=45)
            await exp.run([], "true")
        sent = "".join(map(opened, there.lab.calls))

    private = [path for path in there.home.glob("precip_*") if path.suffix != ".pub"]
    assert private
    secrets = [there.lab.secret_key, "PRIVATE KEY"]
    for path in private:
        public = await anyio.Path(f"{path}.pub").read_text()
        lines = (await anyio.Path(path).read_text()).splitlines()[1:-1]
        secrets += [line for line in lines if line not in public]  # a private key begins with it
    shown = f"{caplog.text} {there.said()} {exp!r} {vars(exp)!r} {sent}"
    written = b"".join(
        path.read_bytes()
        for path in there.home.rglob("*")
        if path.is_file() and path not in private
    )
    assert "#!/bin/sh" in sent
    assert [one for one in secrets if one in shown or one.encode() in written] == []
