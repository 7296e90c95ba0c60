"""Errors build their sentences, keep their facts, and survive pickling."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from precip_async import errors
from precip_async.errors import ExperimentException, FleetError, shortened
from precip_async.fleet import BootDiagnosis
from precip_async.results import CommandResult, RunResults


def result(**facts: Any) -> CommandResult:
    """A result of `make` on node 0, but for the `facts` given."""
    known: dict[str, Any] = {
        "instance_id": "i-0",
        "index": 0,
        "host": "10.0.0.1",
        "command": "make",
        "user": "root",
        "exit_code": 2,
        "started_at": datetime(2024, 1, 1, tzinfo=UTC),
        "duration": 1.5,
    }
    return CommandResult(**(known | facts))


REMOTE: dict[str, Any] = {"instance_id": "i-0", "host": "10.0.0.1", "problem": "it is no more"}
CLOUD: dict[str, Any] = {
    "message": "no such image",
    "cloud": "Amazon EC2",
    "operation": "RunInstances",
    "code": "InvalidAMIID.NotFound",
    "request_id": "r-1",
    "hint": "look it up in this region",
}
BOOT: dict[str, Any] = {
    "diagnoses": {
        "i-0": BootDiagnosis(stage="pending", seen="no address"),
        "i-1": BootDiagnosis(stage="addressed", seen="port filtered", advice="open port 22"),
    },
    "waited": 61.2,
}
# One of each class, made from facts. A class that is missing here is a failure below.
FACTS: dict[str, dict[str, Any]] = {
    "ExperimentException": {"message": "it went wrong"},
    "InvalidArgument": {"message": "count must be above 0"},
    "ExperimentClosed": {"message": "open it first"},
    "NameInUse": {"name": "mine", "holder": "process 12"},
    "HomeError": {"path": "/h", "problem": "others can read it", "mend": "run: chmod 700 /h"},
    **dict.fromkeys(
        (
            "CloudError",
            "NotAuthorized",
            "ImageNotFound",
            "InvalidInstanceType",
            "QuotaExceeded",
            "CapacityUnavailable",
            "Throttled",
            "EndpointUnreachable",
        ),
        CLOUD,
    ),
    **dict.fromkeys(("BootError", "BootTimeout"), BOOT),
    **dict.fromkeys(
        (
            "RemoteError",
            "ConnectError",
            "AuthenticationFailed",
            "HostKeyMismatch",
            "ConnectTimeout",
            "ConnectionLost",
            "TransferError",
        ),
        REMOTE,
    ),
    "CommandFailed": {"result": result(stderr_bytes=b"no rule to make target")},
    "CommandTimeout": {"result": result(exit_code=None), "leftover": "process 7 under sudo"},
    "FleetError": {"outcomes": (result(), errors.TransferError(**REMOTE), None)},
}
every = pytest.mark.parametrize("name", sorted(errors.__all__))


def make(name: str) -> ExperimentException:
    """One error of the class `name`."""
    error: ExperimentException = getattr(errors, name)(**FACTS[name])
    return error


def test_every_error_is_tried_here() -> None:
    """The facts above make one of each class that is exported."""
    assert set(FACTS) == set(errors.__all__)


@every
def test_every_error_is_an_experiment_exception(name: str) -> None:
    """One `except ExperimentException` catches whatever this library raises."""
    assert isinstance(make(name), ExperimentException)


@every
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(name: str, protocol: int) -> None:
    """Sentence, facts, notes, results and cause arrive in another process as they left."""
    error = make(name)
    error.results = RunResults([result()])
    error.add_note("seen on a Monday")
    error.__cause__ = OSError(5, "Input/output error")

    twin = pickle.loads(pickle.dumps(error, protocol))

    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.results == error.results
    assert twin.__notes__ == ["seen on a Monday"]
    assert repr(twin.__cause__) == repr(error.__cause__)
    for fact in FACTS[name].keys() - {"message", "outcomes"}:
        assert getattr(twin, fact) == getattr(error, fact)


@every
def test_every_error_can_be_copied(name: str) -> None:
    """A copy says and knows the same."""
    error = make(name)

    assert str(copy.copy(error)) == str(error)


def test_a_cause_that_cannot_be_pickled_is_left_behind() -> None:
    """A foreign cause, which may hold a socket, does not keep an error from travelling."""
    error = make("ConnectError")
    error.__cause__ = RuntimeError(lambda: None)

    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidArgument", ValueError),
        ("BootTimeout", TimeoutError),
        ("ConnectTimeout", TimeoutError),
        ("CommandTimeout", TimeoutError),
        ("FleetError", ExceptionGroup),
    ],
)
def test_some_errors_are_builtin_ones_as_well(name: str, builtin: type[Exception]) -> None:
    """Who catches the builtin error of that meaning catches ours too."""
    assert isinstance(make(name), builtin)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("NotAuthorized", "CloudError"),
        ("BootTimeout", "BootError"),
        ("HostKeyMismatch", "ConnectError"),
        ("ConnectError", "RemoteError"),
        ("ConnectionLost", "RemoteError"),
        ("CommandTimeout", "CommandFailed"),
        ("CommandFailed", "RemoteError"),
        ("TransferError", "RemoteError"),
    ],
)
def test_the_tree_is_as_documented(name: str, base: str) -> None:
    """Who catches the documented base catches the rest of its branch."""
    assert issubclass(getattr(errors, name), getattr(errors, base))


SENTENCES = {
    "NameInUse": """\
the name 'mine' is held by process 12; choose another name=, or end that one first""",
    "HomeError": "/h: others can read it; run: chmod 700 /h",
    "ImageNotFound": """\
Amazon EC2: RunInstances: no such image (InvalidAMIID.NotFound); look it up in this region""",
    "ConnectionLost": "i-0 (10.0.0.1): it is no more",
    "CommandFailed": """\
i-0 (10.0.0.1): exit code 2: make
no rule to make target""",
    "CommandTimeout": """\
i-0 (10.0.0.1): ended after 1.5 s, its timeout: make
not everything of it could be ended: process 7 under sudo""",
    "BootError": """\
2 instance(s) did not become ready (61 s):
  i-0: no address
  i-1: port filtered; open port 22""",
    "BootTimeout": """\
2 instance(s) not ready after 61 s; wait() again resumes:
  i-0: no address
  i-1: port filtered; open port 22""",
}


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_an_error_says_what_failed_and_what_to_do(name: str) -> None:
    """The sentence is built from the facts alone."""
    assert str(make(name)) == SENTENCES[name]


def test_a_cloud_error_leaves_out_what_is_not_known() -> None:
    """Without a code and a hint there are no empty brackets."""
    error = errors.CloudError("refused", cloud="local", operation="launch")

    assert str(error) == "local: launch: refused"


def test_a_place_is_said_once() -> None:
    """A host that is its own id is not repeated in brackets."""
    error = errors.ConnectError(instance_id="node1", host="node1", problem="refused")

    assert str(error) == "node1: refused"


def test_a_failed_command_shows_the_end_of_what_it_said() -> None:
    """Of a long stderr the message shows the end, where the reason is; the result has it all."""
    said = b"x" * 50_000 + b" and this is why"
    error = errors.CommandFailed(result=result(stderr_bytes=said))

    assert str(error).endswith(" and this is why")
    assert len(str(error)) < 3000
    assert error.result.stderr_bytes == said


def test_a_failed_command_that_complains_on_stdout_is_quoted() -> None:
    """Where stderr is empty the message shows the end of stdout."""
    error = errors.CommandFailed(result=result(stdout_bytes=b"error: no disk\n"))

    assert str(error).endswith("make\nerror: no disk")


def test_a_command_timeout_knows_that_nothing_is_left() -> None:
    """Without leftovers the message has none and the attribute is empty."""
    error = errors.CommandTimeout(result=result(exit_code=None))

    assert error.leftover == ""
    assert "could be ended" not in str(error)


def fleet(*, ok: int, failed: int) -> FleetError:
    """The error of a fan-out of that many."""
    bad = [errors.ConnectError(**(REMOTE | {"instance_id": f"i-{n}"})) for n in range(failed)]
    return FleetError([*(result(exit_code=0) for _ in range(ok)), *bad])


def test_a_fleet_error_tells_success_from_failure() -> None:
    """Outcomes keep the order asked; the succeeded and the failed are told apart."""
    lost = errors.ConnectionLost(**REMOTE)
    first, last = result(index=0), result(index=2)
    error = FleetError([first, lost, last])

    assert error.outcomes == (first, lost, last)
    assert error.succeeded == (first, last)
    assert error.failed == (lost,)
    assert error.exceptions == (lost,)


def test_a_fleet_error_shows_a_few_and_counts_the_rest() -> None:
    """Five failures are shown, the rest are a number."""
    text = str(fleet(ok=3, failed=9))

    assert text.startswith("9 of 12 instances failed:\n  i-0 (10.0.0.1): it is no more\n")
    assert "i-4" in text
    assert "i-5" not in text
    assert "… and 4 more" in text


def test_a_fleet_error_needs_a_failure() -> None:
    """A fan-out in which nothing failed is no error."""
    with pytest.raises(ValueError, match="non-empty"):
        fleet(ok=2, failed=0)


def test_except_star_takes_a_fleet_error_apart() -> None:
    """`except*` sorts the failures by kind, and what nobody took goes on."""
    lost, timeout = errors.ConnectionLost(**REMOTE), errors.ConnectTimeout(**REMOTE)
    taken: list[BaseException] = []

    def sort() -> None:
        try:
            raise FleetError([lost, timeout])
        except* TimeoutError as group:
            taken.extend(group.exceptions)

    with pytest.raises(FleetError) as rest:
        sort()

    assert taken == [timeout]
    assert rest.value.failed == (lost,)


def test_a_split_fleet_error_stays_one() -> None:
    """Both parts of a split are fleet errors, of the failures that they hold."""
    lost, timeout = errors.ConnectionLost(**REMOTE), errors.ConnectTimeout(**REMOTE)
    match, rest = FleetError([lost, result(), timeout]).split(errors.ConnectError)

    assert isinstance(match, FleetError)
    assert isinstance(rest, FleetError)
    assert (match.failed, rest.failed) == ((timeout,), (lost,))


def test_an_error_has_no_results_unless_given() -> None:
    """Only an error that ended a run carries results."""
    assert make("ConnectError").results is None


@given(st.text(), st.integers(10, 300))
@example("x" * 11, 10)
@example("x" * 12, 11)
def test_shortened_text_is_one_line_within_its_limit(text: str, limit: int) -> None:
    """Whatever the text, it is one line of at most that many characters; short ones are whole."""
    short = shortened(text, limit)

    assert len(short) <= limit
    assert len(short.splitlines()) <= 1
    line = " ".join(text.split())
    if len(line) <= limit and line.isprintable():
        assert short == line


def test_shortened_text_gives_a_terminal_nothing_to_obey() -> None:
    """Escape sequences, and what turns the direction of text, become replacement characters."""
    assert shortened("a\x1b[2J\x9bb\u202ec\td") == "a�[2J�b�c d"


def test_shortened_text_keeps_both_ends() -> None:
    """Of a long command the beginning and the end are shown."""
    short = shortened("first " + "x" * 1000 + " last")

    assert short.startswith("first x")
    assert short.endswith("x last")
