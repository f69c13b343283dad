"""The door to the command line: how a verb begins, and how it ends.

In: a verb's ``main`` and its flags. Out: ``main`` called with checked values, and an exit code. A
user's mistake ends in one line on stderr and code 2. Flags exist only while ``run`` runs, which a
verb calls under ``if __name__ == "__main__"``; importing this file defines none, nor imports jax.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import logging as absl_logging

from gptjax.cli import flags as arguments
from gptjax.cli import help as pages
from gptjax.cli.flags import Flag
from gptjax.errors import UserError, harmless
from gptjax.runtime import compilation_cache

__all__ = ["Flag", "call", "run"]


def run(
    main: Callable[[Any], int | None],
    *,
    about: str | None,
    flags: Sequence[Flag] = (),
    config: bool = False,
    words: str = "",
) -> NoReturn:
    """Read the command line, call ``main`` with what it says, and end the process.

    Args:
      main: the verb. It gets the flags as attributes and, with ``config``, ``.config`` (a checked
        ``Config``) and ``.overridden`` (the dotted fields that flags set); it returns an exit code.
      about: the verb's docstring, for the help page.
      flags: the verb's own.
      config: whether the verb takes ``--config=file`` and ``--config.field=value``.
      words: the attribute that gets the arguments that are no flags; "" refuses them.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Windows' code pages know few characters
            stream.reconfigure(encoding="utf-8", errors="replace")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    verb = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    sys.exit(
        call(main, [verb, *sys.argv[1:]], about=about, flags=flags, config=config, words=words)
    )


def call(
    main: Callable[[Any], int | None],
    argv: Sequence[str],
    *,
    about: str | None = "",
    flags: Sequence[Flag] = (),
    config: bool = False,
    words: str = "",
) -> int:
    """What ``run`` does, without ending the process; ``argv`` begins with the verb's name.

    Returns:
      The exit code: main's, 2 after a user's mistake, 130 after Ctrl-C, 141 where the reader of
      stdout has gone (what the shell reports of any program in a pipe).
    """
    try:
        args = arguments.parse(argv, flags, config, words)
        if args.help:
            print(_help(argv[0], about or "", flags, config))
            code = 0
        elif config and args.print_config:
            print(pages.config_page(args.config))
            code = 0
        else:
            _quiet_libraries(args.debug)
            compilation_cache.switch(args.compilation_cache)
            code = main(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # else Python complains when it closes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        code, line = _ending(error)
        if not line:
            raise
        if "--debug" in argv:
            traceback.print_exc()
        print(f"{argv[0]}: {harmless(' '.join(line.splitlines()))}", file=sys.stderr)
        return code


def _ending(error: BaseException) -> tuple[int, str]:
    """The exit code and line of an error that is the user's or the machine's; "" for a bug."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError):
        named = error.strerror and error.filename is not None
        line = f"{error.filename}: {error.strerror}" if named else str(error)
        room = "make room and start again; " if error.errno == errno.ENOSPC else ""
        return 2, f"{line} ({room}--debug shows where)"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        smaller = "a smaller batch, model or train.chunk_steps"
        return 2, f"out of memory: try {smaller} (--debug shows where)"
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        return 2, f"{str(error).splitlines()[0]}: unset JAX_PLATFORMS, or set it to cpu"
    return 1, ""


def _help(verb: str, about: str, flags: Sequence[Flag], config: bool) -> str:
    defaults = None
    if config:
        from gptjax.config.parse import Config

        defaults = Config()
    return pages.help_page(verb, about, arguments.every(flags, config), defaults)


def _quiet_libraries(debug: bool) -> None:
    """Orbax, JAX and the like log their failures alone or, with ``--debug``, all they do."""
    level = logging.INFO if debug else logging.ERROR
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    logging.getLogger("jax").setLevel(level)
    absl_logging.set_verbosity(absl_logging.INFO if debug else absl_logging.ERROR)
