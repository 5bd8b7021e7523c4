"""Commands to type: those that are next, as the last lines of a command, and the one that made something.

Importing it imports nothing heavy.
"""

import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from diagnostics.plugin import default_folder


def command_of(words: str, job: Any, unsaid: Sequence[str]) -> str:
    """What to type for the same as a job (a dataclass whose fields are options); defaults and `unsaid`, which change no
    number, are left out."""
    command_words = ["diagnostics", *words.split()]
    for field in fields(job):
        value = getattr(job, field.name)
        if value == field.default or field.name in unsaid:
            continue
        # `for` and `from` are words of Python.
        option = {"target": "for", "start": "from"}.get(field.name, field.name.replace("_", "-"))
        if isinstance(value, bool):
            command_words.append(f"--{'' if value else 'no-'}{option}")
        else:
            for part in value if isinstance(value, tuple) else (value,):
                command_words += [f"--{option}", str(part)]
    return shlex.join(command_words)


def next_lines(encoders: Sequence[str], data: str, trusting: Sequence[str] = ()) -> list[str]:
    """How to run encoders on data, `trusting` the code of some, and to hold them against each other where there are several."""
    probe = [
        f"diagnostics run {shlex.quote(encoder)}{' --trust-code' if encoder in trusting else ''} --data {shlex.quote(data)}"
        for encoder in encoders
    ]
    if len(encoders) == 1:
        return [f"Next: {probe[0]}"]
    if len(encoders) == 2 or trusting:
        first = f"Next: {' && '.join(probe)}"
    else:
        names = shlex.join(encoders)
        first = f'Next: for model in {names}; do diagnostics run "$model" --data {shlex.quote(data)}; done'
    return [
        first,
        f"Then: diagnostics compare {shlex.join(str(default_folder(encoder, data)) for encoder in encoders)}",
    ]
