"""Command lines, read by real shells: whatever is quoted comes out as it went in."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precip_async.errors import InvalidArgument
from precip_async.shell import (
    LONGEST_LINE,
    MARK,
    command_line,
    ending_line,
    join,
    quote,
    script,
)
from tests import processes
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SHELLS = [shell for shell in ("sh", "dash", "bash", "zsh", "ksh") if shutil.which(shell)]
shells = pytest.mark.parametrize("shell", SHELLS)

# What an argument can hold: anything that can be encoded, but for NUL; bytes that are no UTF-8 too.
WORD = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60),
    st.binary(max_size=40).map(lambda data: os.fsdecode(data.replace(b"\0", b""))),
    st.text("'\"\\$`!*?[]{}()<>|&;#~ \t\n-=", max_size=30),
)
MARKED = "0123456789abcdef"


def run(line: str, *, shell: str = "sh", data: bytes = b"", **env: str) -> bytes:
    """What `shell` says of `line`."""
    ran = subprocess.run(
        [shell, "-c", line],
        input=data,
        capture_output=True,
        check=False,
        timeout=30,
        env={"PATH": os.environ["PATH"], "HOME": "/", **env},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def greeted(said: bytes) -> bytes:
    """What a command said after its greeting."""
    greeting, _, rest = said.partition(b"\n")
    assert re.fullmatch(rb"\x02" + MARKED.encode() + rb" \d+ [0-9a-f-]*", greeting)
    return rest


# -- quoting ---------------------------------------------------------------------------------


@shells
@given(words=st.lists(WORD, min_size=1, max_size=5))
@settings(max_examples=40)
def test_words_come_out_as_they_went_in(shell: str, words: list[str]) -> None:
    """Each word is one argument, whatever it holds."""
    said = run(join("printf", r"%s\0", *words), shell=shell)

    assert said.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


@given(text=WORD)
@settings(max_examples=40)
def test_quoting_twice_is_undone_by_reading_twice(text: str) -> None:
    """A command line is a word of another one."""
    line = join("sh", "-c", join("printf", "%s", text))

    assert run(line) == os.fsencode(text)


def test_a_plain_word_is_left_as_it_is() -> None:
    """What needs no quotes gets none: logs stay readable."""
    assert join("/usr/bin/a-b_c.d", "x=1,2:3@4%5+6") == "/usr/bin/a-b_c.d x=1,2:3@4%5+6"
    assert quote("") == "''"
    assert quote("it's") == "'it'\\''s'"


@given(words=st.lists(WORD, max_size=4))
@settings(max_examples=20)
def test_a_script_finds_its_arguments(words: list[str]) -> None:
    """They are `$1`, `$2`, … of the text."""
    said = run(script(r'[ $# -eq 0 ] || printf "%s\0" "$@"', *words))

    assert said.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


# -- commands --------------------------------------------------------------------------------


@shells
@given(value=WORD, command=WORD)
@settings(max_examples=20)
def test_a_command_finds_its_environment_and_is_read_once(
    shell: str, value: str, command: str
) -> None:
    """Values of variables may hold anything but NUL, and so may the command."""
    line = command_line(
        join("printf", "%s,%s", command) + ' "$VALUE"', mark=MARKED, env={"VALUE": value}
    )

    said = greeted(run(line, shell=shell, SHELL="/bin/sh"))

    assert said == os.fsencode(f"{command},{value}")


@shells
def test_a_command_says_its_process_group(shell: str) -> None:
    """The greeting names the process that the login shell was, which runs the command itself."""
    line = command_line("echo $$", mark=MARKED, env={})

    greeting, said = run(line, shell=shell, SHELL="/bin/sh").split(b"\n")[:2]

    assert greeting.split()[1] == said


@pytest.mark.parametrize("name", ["d", "g", "b", "h", "precip_g", "CDPATH"])
def test_variables_may_bear_any_name(name: str, tmp_path: Path) -> None:
    """None of them decides where the command runs, nor what is ended when its time is up."""
    line = command_line(
        f'echo $$; pwd; echo "${name}"', mark=MARKED, env={name: "/1"}, cwd=str(tmp_path)
    )

    greeting, *said = run(line, SHELL="/bin/sh").decode().splitlines()

    assert said == [greeting.split()[1], str(tmp_path), "/1"]


def test_a_command_says_in_which_boot_that_is_its_group() -> None:
    """A group's number is good until the next one."""
    greeting = run(command_line("true", mark=MARKED, env={})).split(b"\n")[0]

    assert greeting.split()[2] == Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


@shells
def test_both_streams_begin_with_the_greeting(shell: str) -> None:
    """What a start file said before belongs to neither."""
    line = "echo noise; echo noise >&2; " + command_line("echo e >&2", mark=MARKED, env={})

    ran = subprocess.run([shell, "-c", line], capture_output=True, check=True, timeout=30)

    assert re.fullmatch(rb"noise\n\x02%s \d+ [0-9a-f-]*\n" % MARKED.encode(), ran.stdout)
    assert re.fullmatch(rb"noise\n\x02%s \d+ [0-9a-f-]*\ne\n" % MARKED.encode(), ran.stderr)


def test_a_command_runs_in_its_directory_by_the_users_shell(tmp_path: Path) -> None:
    """The directory may have any name; the shell is the one of the login."""
    place = tmp_path / "-a b'c\n"
    place.mkdir()
    line = command_line("pwd; echo $0", mark=MARKED, env={}, cwd=str(place))

    said = greeted(run(line, SHELL="/bin/bash"))

    assert said == os.fsencode(place) + b"\n/bin/bash\n"


@pytest.mark.parametrize(("stdin", "read"), [(True, b"input"), (False, b"")])
def test_input_is_connected_or_empty(stdin: bool, read: bytes) -> None:
    """A command without input reads the end of it, and never what is meant for others."""
    line = command_line("cat", mark=MARKED, env={}, stdin=stdin)

    assert greeted(run(line, data=b"input", SHELL="/bin/sh")) == read


def test_every_process_of_a_command_bears_its_mark() -> None:
    """It is how what is left of a run is found."""
    line = command_line(f"sh -c 'echo ${MARK}'", mark=MARKED, env={})

    assert greeted(run(line, SHELL="/bin/sh")) == MARKED.encode() + b"\n"


@pytest.mark.parametrize(
    "bad",
    [
        {"command": "a\0b"},
        {"env": {"A": "a\0b"}},
        {"cwd": "a\0b"},
        {"env": {"": "x"}},
        {"env": {"A B": "x"}},
        {"env": {"1A": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"É": "x"}},
        {"command": "\ud800"},
        {"command": "x" * LONGEST_LINE},
        {"env": {"A": "'" * (LONGEST_LINE // 4)}},
    ],
    ids=lambda bad: str(bad)[:30],
)
def test_what_no_shell_could_be_told_is_refused(bad: dict[str, object]) -> None:
    """Before anybody connects, with a sentence."""
    with pytest.raises(InvalidArgument):
        command_line(**{"command": "a", "mark": MARKED, "env": {}, **bad})  # type: ignore[arg-type] # as given


def test_a_line_as_long_as_allowed_is_run() -> None:
    """The limit is below the kernel's own."""
    overhead = len(command_line("", mark=MARKED, env={"A": ""}))
    line = command_line("echo ${#A}", mark=MARKED, env={"A": "x" * (LONGEST_LINE - overhead - 20)})

    assert int(greeted(run(line, SHELL="/bin/sh"))) > 100_000


# -- ending ----------------------------------------------------------------------------------


class Victim:
    """A command that runs in a session of its own, as sshd starts it."""

    def __init__(self, command: str) -> None:
        self.mark = secrets.token_hex(8)
        self._process = subprocess.Popen(
            ["sh", "-c", command_line(command, mark=self.mark, env={})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "SHELL": "/bin/sh"},
        )
        self.group = self._process.pid

    def alive(self) -> list[processes.Process]:
        """What of it lives."""
        found = processes.marked(f"{MARK}={self.mark}")
        return found + [one for one in processes.descendants([self.group]) if one not in found]

    def end(self) -> None:
        """Make sure that it has ended."""
        processes.end(self.alive())
        self._process.wait(10)


@contextmanager
def victim(command: str, count: int) -> Iterator[Victim]:
    """A command of so many processes, which has begun."""
    one = Victim(command)
    try:
        until(lambda: len(one.alive()) >= count, f"{count} processes")
        yield one
    finally:
        one.end()


branches = pytest.mark.parametrize("table", ["/proc", "ps"])


def ending(
    one: Victim, table: str, *, group: int | None = None, grace: float = 1, boot: str = ""
) -> str:
    """What ends `one`, by /proc or, as on other systems, by ps."""
    line = ending_line(one.mark, one.group if group is None else group, grace, boot=boot)
    return line if table == "/proc" else line.replace("-d /proc/self", "-d /no/proc")


@branches
@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("sleep 600", 1),
        ("sleep 600 & sleep 601 & wait", 3),
        ("setsid sleep 600 & sleep 601", 3),
        ("setsid sh -c 'sleep 600 & sleep 601' & sleep 602", 4),
    ],
)
@shells
def test_ending_ends_all_that_bears_the_mark(
    shell: str, command: str, count: int, table: str
) -> None:
    """The group, the session, and whatever has left both; nothing is said."""
    with victim(command, count) as one:
        assert run(ending(one, table), shell=shell) == b""
        assert one.alive() == []


@branches
@pytest.mark.parametrize("group", [0, 1])
def test_ending_without_a_group_goes_by_the_mark_alone(group: int, table: str) -> None:
    """A group that is none is nobody's: in a container half of the machine may be in group 0."""
    with victim("sleep 600 & sleep 601", 2) as bystander, victim("sleep 602 & sleep 603", 2) as one:
        run(ending(one, table, group=group))
        assert one.alive() == []
        assert len(bystander.alive()) >= 2


@branches
def test_ending_spares_who_has_the_number_of_the_group_since_a_reboot(table: str) -> None:
    """Another boot's group is nobody's; in this boot it is the command's."""
    here = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with victim("sleep 600", 1) as bystander:
        stranger = ending_line(secrets.token_hex(8), bystander.group, 1, boot="0" + here[:-1])
        run(stranger if table == "/proc" else stranger.replace("-d /proc/self", "-d /no/proc"))
        assert bystander.alive()
    with victim("sleep 600 & sleep 601", 2) as one:
        run(ending(one, table, boot=here))
        assert one.alive() == []


def test_ending_spares_itself_and_what_it_comes_from() -> None:
    """Even if all of its ancestors bear the mark."""
    with victim("sleep 600", 1) as one:
        line = f"{MARK}={one.mark}; export {MARK}; " + ending(one, "/proc") + "\necho alive"
        # not `exec`ed: its parent bears the mark as well, and lives on
        assert run(line.replace("exec sh", "sh", 1)) == b"alive\n"
        assert one.alive() == []


@branches
def test_ending_kills_what_ignores_its_grace(table: str) -> None:
    """TERM first, KILL after the grace."""
    with victim("trap '' TERM; sleep 600 & sleep 601", 2) as one:
        run(ending(one, table, grace=0.3))
        assert one.alive() == []


def test_ending_what_has_ended_does_nothing() -> None:
    """The exit code is 0 when nothing is left, whatever has been."""
    assert run(ending_line(secrets.token_hex(8), 2**22 - 1, 1)) == b""
