"""`diagnostics` commands in this process, and what they print."""

from __future__ import annotations

from typing import NamedTuple

from typer.testing import CliRunner

from diagnostics.cli.main import app


class Shown(NamedTuple):
    status: int
    out: str
    err: str


def diagnose(*args: object) -> Shown:
    """`diagnostics ARGS` in this process; what is not an exit comes out as it is."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Shown(result.exit_code, result.stdout, result.stderr)


def refused(*args: object) -> str:
    """The one sentence with which a command is refused."""
    status, out, err = diagnose(*args)
    assert status == 2, err
    assert out == ""
    # The cost is said before the first byte is written, and so before what goes wrong in writing.
    lines = [line for line in err.splitlines() if "extraction takes about" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("diagnostics: ")
    assert "Traceback" not in err
    return lines[0].removeprefix("diagnostics: ")
