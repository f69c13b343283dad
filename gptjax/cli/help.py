"""The text of ``--help`` and ``--print_config``.

In: a command's flags, a ``Config``. Out: plain aligned text, as wide as the terminal; in a pipe a
flag is never broken over two lines, so that ``grep`` finds it whole.
"""

import inspect
import itertools
import json
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from gptjax.cli.flags import Flag
from gptjax.config.schema import Config, fields

Row = tuple[str, str, str]  # --name=value, type, meaning


def help_page(command: str, about: str, flags: Iterable[Flag], config: Config | None) -> str:
    """What a command does, how it is called, its flags, and the fields of its config.

    Of ``about``, its docstring, the first paragraph and the indented lines (examples) are shown.
    """
    about = inspect.cleandoc(about)
    examples = [line for line in about.split("\n") if line.startswith("    ")]
    if " " in command:  # the console's gptjax train
        examples = [line.replace("python -m gptjax.", "gptjax ") for line in examples]
    else:
        command = f"python -m {command}"
    parts = [f"usage: {command} [--flag=value ...]", about.split("\n\n")[0]]
    parts += ["\n".join(examples)] if examples else []
    parts.append(table([(_flag(f.name, f.value), _kind(f.type), f.meaning) for f in flags]))
    if config is not None:
        parts += ["The config's fields and their defaults:", config_page(config)]
    return "\n\n".join(parts)


def config_page(config: Config) -> str:
    """Every field of a config, one a line; what stands first can be copied back as a flag."""
    rows = [(_flag(f"config.{f.path}", f.value), _kind(f.type), f.meaning) for f in fields(config)]
    widths = _widths(rows)
    groups = itertools.groupby(rows, key=lambda row: row[0].partition("=")[0].rpartition(".")[0])
    return "\n\n".join(table(list(group), widths) for _, group in groups)


def table(rows: Sequence[Row], widths: tuple[int, int] | None = None) -> str:
    """Align rows of flag, type and meaning; meanings wrap at the terminal's right edge."""
    first, second = widths or _widths(rows)
    indent = first + second + 4
    room = shutil.get_terminal_size((10_000, 24)).columns - indent - 1
    lines = []
    for flag, kind, meaning in rows:
        # Below some 24 columns, words one under the other are harder to read than long lines.
        wrapped = textwrap.wrap(meaning, room) if room >= 24 else [meaning]
        head = f"{flag:{first}}  {kind:{second}}  "
        lines += [head + (wrapped[0] if wrapped else ""), *(" " * indent + w for w in wrapped[1:])]
    return "\n".join(line.rstrip() for line in lines)


def _widths(rows: Sequence[Row]) -> tuple[int, int]:
    # A long value (a path, the expected band) moves its own line only.
    return min(40, max(len(row[0]) for row in rows)), max(len(row[1]) for row in rows)


def _flag(name: str, value: Any) -> str:
    """``--name=value`` as a shell reads it; without a default the name alone."""
    if value is None or value == []:
        return f"--{name}"
    text = json.dumps(value) if isinstance(value, (dict, bool)) else str(value)
    return f"--{name}={shlex.quote(text)}"


def _kind(kind: type) -> str:
    return "str ..." if kind is list else kind.__name__
