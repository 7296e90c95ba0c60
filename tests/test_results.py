"""Results: the manual's three lists, and one frozen value an instance."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.results import CommandResult, RunResults


def result(
    index: int = 0, exit_code: int | None = 0, out: bytes = b"", err: bytes = b""
) -> CommandResult:
    """What `hostname` gave on the instance at `index`."""
    return CommandResult(
        instance_id=f"i-{index}",
        index=index,
        host=f"127.0.0.{index + 1}",
        command="hostname",
        user="root",
        exit_code=exit_code,
        started_at=datetime(2024, 1, 1, tzinfo=UTC),
        duration=0.1,
        stdout_bytes=out,
        stderr_bytes=err,
    )


THREE = RunResults([result(0, 0, b"a\n"), result(1, 3, b"b\n", b"oh\n"), result(2, -9)])


def test_results_unpack_into_the_manuals_three_lists() -> None:
    """`codes, outs, errs = exp.run(...)` works, in provisioning order."""
    codes, outs, errs = THREE

    assert codes == [0, 3, -9]
    assert outs == ["a\n", "b\n", ""]
    assert errs == ["", "oh\n", ""]


def test_results_are_indexed_as_in_the_manual() -> None:
    """`exp.run(...)[1][0]` is the first instance's stdout; negative indices and slices work."""
    assert THREE[1][0] == "a\n"
    assert THREE[-1] == THREE[2]
    assert list(THREE[:2]) == [THREE[0], THREE[1]]
    with pytest.raises(IndexError):
        THREE[3]


def test_no_results_are_three_empty_lists() -> None:
    """Where no instance matched there are still three lists to unpack."""
    assert RunResults() == ([], [], [])
    assert len(RunResults()) == 3


def test_results_equal_the_lists_that_they_stand_for() -> None:
    """Results compare with lists and tuples of the same lists, and with each other."""
    assert THREE == ([0, 3, -9], ["a\n", "b\n", ""], ["", "oh\n", ""])
    assert RunResults(THREE.by_instance) == THREE
    assert RunResults(THREE.by_instance[:2]) != THREE
    assert THREE != "other"


def test_results_know_what_failed() -> None:
    """Results are ok when every command exited with zero; the others are named."""
    assert not THREE.ok
    assert [failed.index for failed in THREE.failed] == [1, 2]
    assert RunResults(THREE.by_instance[:1]).ok


def test_a_command_without_an_exit_code_is_not_ok() -> None:
    """A command whose time was up has failed."""
    assert not result(exit_code=None).ok


def test_results_survive_pickling() -> None:
    """Results arrive in another process as they left."""
    assert pickle.loads(pickle.dumps(THREE)) == THREE


def test_results_show_their_lists() -> None:
    """In a notebook or a debugger the three lists are to be seen."""
    assert repr(RunResults([result(out=b"x")])) == "RunResults([[0], ['x'], ['']])"


def test_results_cannot_be_hashed() -> None:
    """They hold lists, which may be changed."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(THREE)


def test_output_that_is_not_text_is_shown_and_kept() -> None:
    """Bytes that are not UTF-8 become U+FFFD in the text; the bytes themselves are there."""
    latin = result(out=b"caf\xe9", err=b"\xff")

    assert (latin.stdout, latin.stderr) == (
        "caf\N{REPLACEMENT CHARACTER}",
        "\N{REPLACEMENT CHARACTER}",
    )
    assert latin.stdout_bytes == b"caf\xe9"


@given(st.text())
def test_text_is_read_back_as_it_was_written(text: str) -> None:
    """UTF-8 output comes back as the text that it was, without any translation."""
    written = text.encode(errors="surrogatepass")
    expected = written.decode(errors="replace")

    assert result(out=written).stdout == expected
    assert result(err=written).stderr == expected


def test_a_result_is_frozen() -> None:
    """What was answered does not change afterwards."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().exit_code = 1  # type: ignore[misc] # that it is refused is the point


def test_a_results_repr_leaves_out_the_output() -> None:
    """Megabytes of output do not flood a traceback."""
    assert len(repr(result(out=b"x" * 100_000))) < 500
