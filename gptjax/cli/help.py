"""The text of ``--help`` and ``--print_config``.

In: a verb's flags, a ``Config``. Out: plain aligned text, as wide as the terminal; in a pipe a
flag is never broken over two lines, so that ``grep`` finds it whole.
"""

from __future__ import annotations

import inspect
import itertools
import json
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptjax.cli.flags import Flag
    from gptjax.config.parse import Config

Row = tuple[str, str, str]  # --name=value, type, meaning


def help_page(verb: str, about: str, flags: Iterable[Flag], config: Config | None) -> str:
    """What a verb does, how it is called, its flags, and the fields of its config.

    Args:
      verb: as in ``python -m verb``.
      about: the verb's docstring: its first paragraph and its indented lines (examples) are shown.
      flags: all of them.
      config: the defaults to list, or None for a verb without a config.

    Returns:
      The page.
    """
    about = inspect.cleandoc(about)
    examples = [line for line in about.split("\n") if line.startswith("    ")]
    parts = [f"usage: python -m {verb} [--flag=value ...]", about.split("\n\n")[0]]
    parts += ["\n".join(examples)] if examples else []
    parts.append(table([(_flag(f.name, f.value), _kind(f.type), f.meaning) for f in flags]))
    if config is not None:
        parts += ["The config's fields and their defaults:", config_page(config)]
    return "\n\n".join(parts)


def config_page(config: Config) -> str:
    """Every field of a config, one a line; what stands first can be copied back as a flag.

    Args:
      config: the values to show.

    Returns:
      A paragraph for each part of the config.
    """
    from gptjax.config.parse import (
        fields,  # imports flax: a verb without a config need not wait for it
    )

    known = list(fields(config))
    rows = [(_flag(f"config.{f.path}", f.value), _kind(f.type), f.meaning) for f in known]
    parts = [f.path.rpartition(".")[0] for f in known]
    widths = _widths(rows)
    groups = itertools.groupby(zip(parts, rows, strict=True), key=lambda pair: pair[0])
    return "\n\n".join(table([row for _, row in group], widths) for _, group in groups)


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
    if isinstance(value, bool):
        return f"--{name}={str(value).lower()}"
    return f"--{name}={shlex.quote(json.dumps(value) if isinstance(value, dict) else str(value))}"


def _kind(kind: type) -> str:
    return "str ..." if kind is list else kind.__name__
