"""What docs/security.md claims: that its tests exist, and that no secret leaves its place."""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import logging
import re
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import anyio.to_thread
import asyncssh
import pytest

from precip_async.errors import ExperimentException
from precip_async.lab.lab import Lab
from tests.on_clouds import BRISK, IMAGES, REGION, experiment_on, rehearsed
from tests.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precip_async.events import Event
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


def reprs(root: object) -> Iterator[str]:
    """How everything of ours shows itself that can be reached from `root`."""
    seen, left = set[int](), [root]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            left += one
        elif type(one).__module__.startswith("precip_async"):
            yield repr(one)
            slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
            left += [*getattr(one, "__dict__", {}).values()]
            left += [getattr(one, name) for name in slots if hasattr(one, name)]


def told(error: BaseException) -> Iterator[str]:
    """All that an error says, of itself and of what is below it, as text and as facts."""
    yield "".join(traceback.format_exception(error))
    left: list[BaseException | None] = [error]
    seen = set[int]()  # they go in circles
    while left:
        if (one := left.pop()) is not None and id(one) not in seen:
            seen.add(id(one))
            yield f"{one!r} {one.args!r} {vars(one)!r} {getattr(one, '__notes__', '')}"
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


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
            known = "".join(reprs(exp))
        sent = "".join(map(opened, there.lab.calls))

    private = [path for path in there.home.glob("precip_*") if path.suffix != ".pub"]
    assert private
    secrets = [there.lab.secret_key, "PRIVATE KEY"]
    for path in private:
        public = await anyio.Path(f"{path}.pub").read_text()
        lines = (await anyio.Path(path).read_text()).splitlines()[1:-1]
        secrets += [line for line in lines if line not in public]  # a private key begins with it
    shown = f"{caplog.text} {there.said()} {exp!r} {known} {sent}"
    written = b"".join(
        path.read_bytes()
        for path in there.home.rglob("*")
        if path.is_file() and path not in private
    )
    assert "#!/bin/sh" in sent
    assert [one for one in secrets if one in shown or one.encode() in written] == []


@pytest.mark.parametrize("workers", [0, 1])
async def test_no_secret_of_the_users_leaves_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    """Nor in what goes wrong: a session token, the passphrase of a key, and the key."""
    caplog.set_level(logging.DEBUG)
    token, passphrase = "FwoGZXIvYXdzEXAMPLEsession+token==", "open sesame of the users"
    key, home = tmp_path / "key", tmp_path / "home"
    made = asyncssh.generate_private_key("ssh-ed25519")
    await anyio.to_thread.run_sync(made.write_private_key, key, "openssh", passphrase)
    await anyio.Path(key).chmod(0o600)
    heard: list[Event] = []
    texts: list[str] = []
    await anyio.Path(tmp_path / "lab").mkdir()
    async with Lab(
        "amazon",
        directory=tmp_path / "lab",
        isolation="process",
        region=REGION,
        session_token=token,
    ) as lab:
        exp = experiment_on(
            lab,
            home,
            session_token=token,
            ssh_key=key,
            key_passphrase=passphrase,
            observer=heard.append,
            limits=replace(BRISK, ssh_workers=workers),
        )
        async with exp:
            await exp.provision(IMAGES["amazon"], count=2)
            await exp.wait(timeout=45)
            for attempt in (
                lambda: exp.run([], "exit 3", parallel=True),
                lambda: exp.run([], "kill -9 $PPID $$", timeout=5),
                lambda: exp.get([], "/nonexistent", tmp_path / "got"),
                lambda: exp.provision(IMAGES["amazon"], instance_type="of no kind"),
            ):
                with pytest.raises(ExperimentException) as caught:
                    await attempt()
                texts += told(caught.value)
            texts += reprs(exp)
        texts += [opened(call) for call in lab.calls]
    texts += [*map(str, heard), *map(repr, heard), caplog.text]
    written = [one.read_bytes() for one in home.rglob("*") if one.is_file()]

    body = made.export_private_key("openssh").decode().splitlines()[2:-1]
    secrets = [lab.secret_key, token, quote(token, safe=""), passphrase, "PRIVATE KEY", *body]
    own = {one.read_bytes() for one in home.glob("precip_*") if one.suffix != ".pub"}
    assert len(texts) > 20
    for secret in secrets:
        # the token goes with each request, which is the place for it
        assert [one[:300] for one in texts if secret in one.replace(f"'{token}'", "")] == []
        assert not any(secret.encode() in one for one in written if one not in own)
