"""How a command begins, and how it ends.

In: a command's ``main`` and its flags. Out: ``main`` called with checked values, and an exit code.
A user's mistake ends in one line on stderr and code 2. Importing this file does not import jax.
"""

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

from gptjax.cli import flags as command_flags
from gptjax.cli import help
from gptjax.cli.flags import RUN_FLAGS, Flag
from gptjax.config.schema import Config
from gptjax.errors import UserError, harmless
from gptjax.processes import cluster
from gptjax.runtime import compilation_cache, devices, preemption

LONGEST_LINE = 1000  # characters of what is said of a mistake

__all__ = ["RUN_FLAGS", "Flag", "call", "run"]

called_as: str | None = None  # "gptjax train", where not Python was told which module to run


def run(main: Callable[[Any], int | None], **how: Any) -> NoReturn:
    """Read the command line, call ``main`` with what it says, and end the process; see ``call``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Windows' code pages know few characters
            stream.reconfigure(encoding="utf-8", errors="replace")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    with preemption.insist():
        code = 1
        try:
            code = call(main, [called_as or name, *sys.argv[1:]], **how)
        except Exception:
            if cluster.count() == 1:
                raise
            traceback.print_exc()
        sys.exit(cluster.finish(code))


def call(
    main: Callable[[Any], int | None],
    argv: Sequence[str],
    *,
    about: str | None = "",
    flags: Sequence[Flag] = (),
    config: bool = False,
    words: str = "",
    saved: Callable[[str], Config | None] = lambda workdir: None,
) -> int:
    """What ``run`` does, without ending the process.

    Args:
      main: gets the flags as attributes, returns an exit code.
      argv: the command's name, then its arguments.
      about: the command's docstring, for the help page.
      config: whether the command takes ``--config=file`` and ``--config.field=value``: ``main``
        gets ``.config`` (a checked ``Config``), ``.flagged`` (the dotted fields they set) and
        ``.overridden`` (those in which that differs from the file).
      saved: without ``--config``, the config of the run in a folder; None where there is none.
      words: the attribute that gets the arguments that are no flags; "" refuses them.

    Returns:
      The exit code: main's, 2 after a user's mistake, 130 after Ctrl-C, 141 where the reader of
      stdout has gone (what the shell reports of any program in a pipe).
    """
    code = 0
    try:
        several = cluster.hush(argv)
        args = command_flags.read(argv, flags, config, words, saved)
        if args.help:
            every = command_flags.every(flags, config)
            print(help.help_page(argv[0], about or "", every, Config() if config else None))
        elif config and args.print_config:
            print(help.config_page(args.config))
        else:
            _quiet_libraries(args.debug, several)
            _in_float32()
            compilation_cache.switch(args.compilation_cache)
            code = main(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except (Exception, KeyboardInterrupt) as error:
        code, line = _ending(error, config)
        if not line:
            raise
        if "--debug" in argv:
            traceback.print_exc()
        if _is_of_stdout(error):
            _drop_stdout()
        line = harmless(" ".join(line.splitlines()))
        if len(line) > LONGEST_LINE:  # a value of any length stands in it
            line = f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"
        print(f"{argv[0]}: {line}", file=sys.stderr)
        cluster.last_words(line)
        return code


def _drop_stdout() -> None:
    """Let what is still to be printed go nowhere: else Python complains when it closes it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_of_stdout(error: BaseException) -> bool:
    """Whether standard output is full: a file's error says which file it is."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return full and error.filename is None


def _ending(error: BaseException, trains: bool) -> tuple[int, str]:
    """The exit code and line of an error that is the user's or the machine's; "" for a bug.

    ``trains``: whether the command takes a config.
    """
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    cluster.wait_for_an_end()  # does it come from another process that has ended?
    if isinstance(error, OSError):
        named = error.strerror and error.filename is not None
        line = f"{error.filename}: {error.strerror}" if named else str(error)
        if _is_of_stdout(error):
            line = f"standard output cannot be written: {error.strerror}"
        room = "make room and start again; " if error.errno == errno.ENOSPC else ""
        return 2, f"{line} ({room}--debug shows where)"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        smaller = "try fewer or shorter texts at a time"
        if trains:
            smaller = "try a smaller train.batch_size, model or train.chunk_steps"
        return 2, f"out of memory: {smaller} (--debug shows where)"
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        return 2, f"{str(error).splitlines()[0]}: unset JAX_PLATFORMS, or set it to cpu"
    return 1, ""


def _in_float32() -> None:
    """Leave JAX_ENABLE_X64 out: a float64 here and there is of no use to a float32 model."""
    if os.environ.get("JAX_ENABLE_X64", "").lower() not in ("", "0", "false"):
        print("JAX_ENABLE_X64 is left out: models are trained in float32", file=sys.stderr)
        devices.set_jax("jax_enable_x64", False)


def _quiet_libraries(debug: bool, several: bool) -> None:
    """Orbax, JAX and the like log their failures alone or, with ``--debug``, all they do."""
    level = logging.INFO if debug else logging.ERROR
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    if not several:  # JAX would set its C++ code's level by this one, and undo ``hush``
        logging.getLogger("jax").setLevel(level)
    absl_logging.set_verbosity(absl_logging.INFO if debug else absl_logging.ERROR)
