"""The twins are kept in step: names, parameters, defaults, annotations; what differs is a table."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import precip_async
from precip_async import DetachedRun, Limits, reaping, sync
from precip_async.life import Life

CLASSES = [name for name in precip_async.__all__ if name.endswith("Experiment")]

# What differs, and why: async name -> blocking name; "" where there is none.
RENAMED = {
    "aclose": "close",  # as in the standard library
    "open": "",  # the constructor opens
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
}
HANDED = {"start": DetachedRun(()), "started": []}  # what has a twin of its own: see below
TWINS_ONLY = {"quiet"}  # parameters of the constructors: async classes write nothing anyway


VERBS = [
    name
    for cls in precip_async.Experiment.__mro__[: precip_async.Experiment.__mro__.index(Life)]
    for name, member in vars(cls).items()
    if not name.startswith("_") and inspect.isfunction(member)
]


def members(cls: type) -> dict[str, Any]:
    """The public members of `cls`, and how it is entered and left."""
    return {
        name: inspect.getattr_static(cls, name)
        for name in dir(cls)
        if not name.startswith("_") or name in {"__aenter__", "__aexit__", "__enter__", "__exit__"}
    }


def shape(function: Any, *, without: frozenset[str] = frozenset()) -> Any:
    """The signature of `function`, annotations as they are written."""
    signature = inspect.signature(getattr(function, "__func__", function))  # of a class method
    parameters = [p for p in signature.parameters.values() if p.name not in without]
    return signature.replace(parameters=parameters)


def pairs() -> list[tuple[str, str]]:
    """Every class with every public member that it has in one half or the other."""
    found = []
    for cls in CLASSES:
        awaited = {RENAMED.get(name, name) for name in members(getattr(precip_async, cls))}
        called = set(members(getattr(sync, cls)))
        found += [(cls, name) for name in sorted((awaited | called) - {""})]
    return found


def test_there_is_something_to_compare() -> None:
    """The tests below are made of what is found; that it is found is a test of its own."""
    found = {name for _, name in pairs()}

    assert set(CLASSES) >= {"Experiment", "LocalExperiment", "HostsExperiment"}
    assert set(VERBS) >= {"provision", "wait", "run", "copy_and_run", "get", "list", "instances"}
    assert found >= {"provision", "wait", "run", "get", "close", "list", "name", "__exit__"}


@pytest.mark.parametrize(("cls", "name"), pairs())
def test_what_one_half_has_the_other_has(cls: str, name: str) -> None:
    """A verb, a property or a plain method, with the same parameters; what is awaited is called."""
    awaited_name = {new: old for old, new in RENAMED.items()}.get(name, name)
    awaited = members(getattr(precip_async, cls))[awaited_name]
    called = members(getattr(sync, cls))[name]

    assert type(awaited) is type(called)
    assert not inspect.iscoroutinefunction(called)
    if isinstance(awaited, property):
        awaited, called = awaited.fget, called.fget
    assert shape(called) == shape(awaited)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_is_passed_on(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a twin is given reaches the async verb under the same name; its answer returns."""
    signature = inspect.signature(getattr(precip_async.Experiment, verb))
    given = {name: object() for name in signature.parameters if name != "self"}
    answer = HANDED.get(verb, object())
    seen: list[dict[str, object]] = []

    def record(*args: object, **kwargs: object) -> object:
        seen.append(signature.bind(*args, **kwargs).arguments)
        return answer

    async def record_awaited(*args: object, **kwargs: object) -> object:
        return record(*args, **kwargs)

    awaited = inspect.iscoroutinefunction(getattr(precip_async.Experiment, verb))
    recorder = record_awaited if awaited else record
    with (
        sync.HostsExperiment(["one"], quiet=True) as experiment,
        monkeypatch.context() as patched,
    ):
        patched.setattr(precip_async.Experiment, verb, recorder)
        answered = getattr(experiment, verb)(**given)

    seen[0].pop("self")
    assert seen == [given]
    if verb not in HANDED:
        assert answered is (None if signature.return_annotation == "None" else answer)


@pytest.mark.parametrize(
    "name",
    [name for name in vars(DetachedRun) if not name.startswith("_") and name != "grouped"],
)
def test_what_is_handed_out_has_a_twin(name: str) -> None:
    """A detached command is awaited or waited for by the same names and arguments."""
    awaited, called = members(DetachedRun)[name], members(sync.DetachedRun)[name]

    assert type(awaited) is type(called)
    assert not inspect.iscoroutinefunction(called)
    if not isinstance(awaited, property):
        assert shape(called) == shape(awaited)


@pytest.mark.parametrize("cls", CLASSES)
def test_constructors_take_the_same(cls: str) -> None:
    """But for what only the twins can be told, which is keyword-only and off by default."""
    awaited, called = getattr(precip_async, cls), getattr(sync, cls)
    parameters = inspect.signature(called).parameters

    assert shape(called, without=frozenset(TWINS_ONLY)) == shape(awaited)
    for name in TWINS_ONLY:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is False


@pytest.mark.parametrize("cls", CLASSES)
def test_constructors_pass_all_of_it_on(cls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the class that they are the twins of, under the same names."""

    class Made(Exception):
        """It would be opened next."""

    awaited = getattr(precip_async, cls)
    signature = inspect.signature(awaited.__init__)
    own = {name: object() for name in signature.parameters if name not in {"self", "shared"}}
    shared = {"name": object(), "keep": object()}
    seen: list[dict[str, Any]] = []

    def record(self: object, *args: object, **keywords: object) -> None:
        assert type(self) is awaited
        seen.append(signature.bind(self, *args, **keywords).arguments)
        raise Made

    monkeypatch.setattr(awaited, "__init__", record)
    with pytest.raises(Made):
        getattr(sync, cls)(**own, **shared, quiet=True)

    seen[0].pop("self")
    assert seen == [{**own, "shared": shared}]


@pytest.mark.parametrize("verb", ["wait", "follow", "end", "remove"])
def test_what_is_handed_out_passes_every_argument_on(verb: str) -> None:
    """A detached command's verbs do so, too."""
    signature = inspect.signature(getattr(DetachedRun, verb))
    given = {name: object() for name in signature.parameters if name != "self"}
    answer, seen = object(), []

    class Run:
        """Has the one verb."""

        def __getattr__(self, name: str) -> Any:
            def record(*args: object, **keywords: object) -> object:
                seen.append((name, signature.bind(self, *args, **keywords).arguments))
                return answer

            return record

    def call(verb: Any, *args: object, **kwargs: object) -> Any:
        return verb(*args, **kwargs)

    run: Any = Run()
    answered = getattr(sync.DetachedRun(run, call), verb)(**given)

    assert seen == [(verb, {"self": run, **given})]
    if verb == "wait":
        assert answered is answer


def test_reap_passes_every_argument_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it must not end is among them."""
    signature = inspect.signature(reaping.reap)
    given = {**{name: object() for name in signature.parameters}, "limits": Limits()}
    seen: list[dict[str, object]] = []

    async def record(**keywords: object) -> object:
        seen.append(keywords)
        return seen

    monkeypatch.setattr(reaping, "reap", record)
    reap: Any = sync.reap

    assert reap(**given) is seen
    assert seen == [given]


@pytest.mark.parametrize("cls", CLASSES)
def test_classes_descend_alike(cls: str) -> None:
    """``isinstance(exp, Experiment)`` holds in both halves, each with its own."""
    assert issubclass(getattr(precip_async, cls), precip_async.Experiment)
    assert issubclass(getattr(sync, cls), sync.Experiment)
    assert not issubclass(getattr(sync, cls), precip_async.Experiment)
