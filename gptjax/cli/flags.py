"""A command line as values: a verb's flags, and the overrides of its config.

In: argv and the verb's flags. Out: an object with their values, the checked config among them.
absl and ml_collections parse; what they complain of is said in a user's words.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from absl import flags as absl_flags
from ml_collections import config_flags

from gptjax.config import files as config_file
from gptjax.errors import UserError

_DEFINE = {
    bool: absl_flags.DEFINE_bool,
    int: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    str: absl_flags.DEFINE_string,
    list: absl_flags.DEFINE_multi_string,
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", dict: "a dict"}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a verb.

    Attributes:
      name: as in ``--name=value``, and of the attribute that ``main`` reads.
      default: its type is the flag's type; a list makes a flag that may be repeated, and a bare
        type (``int``) one without a default: None until it is set.
      meaning: for the help page, with the unit.
      choices: what a str may be; empty is anything.
    """

    name: str
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def type(self) -> type:
        """The type of its values."""
        return self.default if isinstance(self.default, type) else type(self.default)

    @property
    def value(self) -> Any:
        """What it is when it is not set."""
        return None if isinstance(self.default, type) else self.default


def parse(
    argv: Sequence[str], flags: Sequence[Flag], config: bool, words: str = ""
) -> SimpleNamespace:
    """Turn a command line into checked values.

    Args:
      argv: the verb's name, then the arguments.
      flags: the verb's own; those that every verb has are added.
      config: whether there is a config to load and to override.
      words: what to call the arguments that are no flags; "" refuses them.

    Returns:
      The flags as attributes; ``config`` and ``overridden`` as ``run`` describes them. After
      ``--help`` nothing else has been looked at.

    Raises:
      UserError: a mistake on the command line or in the config file.
    """
    flags = every(flags, config)
    kinds = {f"--{flag.name}": flag.choices or flag.type for flag in flags}
    values = _flag_values()
    for flag in flags:
        _define(flag, values)
    # First the verb's own flags; what stays over are overrides of the config, or mistakes.
    rest = _read(values, argv, kinds, known_only=True)
    args = SimpleNamespace(**{flag.name: values[flag.name].value for flag in flags})
    if args.help:
        return args
    for folder in ("workdir", "out"):  # a shell leaves the ~ of --workdir=~/runs/x alone
        if hasattr(args, folder):
            setattr(args, folder, os.path.expanduser(getattr(args, folder)))
    values = _flag_values()
    if config:
        from gptjax.config import parse as gptjax_config

        settings = config_file.load(args.config)
        as_written = settings.copy_and_resolve_references()
        fields = list(gptjax_config.fields(gptjax_config.Config()))
        kinds |= {f"--config.{field.path}": field.type for field in fields}
        for argument in rest[1:]:
            if named := re.match(r"--?(?:no)?config\.([^=]*)", argument):
                _check_field(named[1], kinds)
        try:
            config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=rest)
        except (KeyError, AttributeError, TypeError, absl_flags.Error) as error:
            raise UserError(
                f"{args.config} lacks a field that the flags set: let its get_config() start from "
                "gptjax.config.base()"
            ) from error
    rest = _read(values, rest, kinds)
    if words:
        setattr(args, words, rest[1:])
    elif rest[1:]:
        raise UserError(f"unexpected {rest[1]!r}: flags are written --name=value; see --help")
    if config:
        args.config = gptjax_config.from_dict(settings)
        # A flag that repeats what the file says changes nothing.
        args.overridden = [
            path
            for path in config_flags.get_override_values(values["config"])
            if _at(settings, path) != _at(as_written, path)
        ]
    return args


def _at(settings: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), settings)


def every(flags: Sequence[Flag], config: bool) -> list[Flag]:
    """The verb's own flags, then those that every verb has."""
    known = [*flags]
    if config:
        names = ", ".join(config_file.names())
        known += [
            Flag(
                "config",
                "",
                f"a .py file with get_config(), or one of {names}; gpt:small names a size",
            ),
            Flag("print_config", False, "list every field with the value in force, and end"),
        ]
    return known + [
        Flag("compilation_cache", True, "keep compiled programs on disk for the next run"),
        Flag("debug", False, "show where an error comes from, and what the libraries log"),
        Flag("help", False, "show this page, and end"),
    ]


def _flag_values() -> absl_flags.FlagValues:
    """An empty set of flags: absl's global one is never touched."""
    values = absl_flags.FlagValues()
    values.set_gnu_getopt(True)  # flags behind a stray argument are read, too
    return values


def _define(flag: Flag, values: absl_flags.FlagValues) -> None:
    common = {"help": flag.meaning, "flag_values": values}
    if flag.choices:
        absl_flags.DEFINE_enum(flag.name, flag.value, flag.choices, **common)
    else:
        short = {"short_name": "h"} if flag.name == "help" else {}
        _DEFINE[flag.type](flag.name, flag.value, **common, **short)


def _read(
    values: absl_flags.FlagValues,
    argv: Sequence[str],
    kinds: Mapping[str, Any],
    known_only: bool = False,
) -> list[str]:
    """Let absl parse; what it complains of is said in a user's words."""
    try:
        return values(argv, known_only=known_only)
    except absl_flags.UnrecognizedFlagError as error:
        name = f"--{error.flagname}"
        raise UserError(f"unknown flag {name}{_near(name, kinds)}; see --help") from error
    except absl_flags.IllegalFlagValueError as error:
        # absl: "flag --name=value: reason", the reason in Python's words.
        text = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
        kind = kinds.get(text.partition("=")[0], str)
        needed = " or ".join(kind) if isinstance(kind, tuple) else _WORDS.get(kind, "text")
        raise UserError(f"{text} is wrong: it must be {needed}") from error
    except absl_flags.Error as error:
        text = str(error)
        raise UserError(f"{text[:1].lower()}{text[1:]}; see --help") from error


def _check_field(path: str, kinds: Mapping[str, Any]) -> None:
    name = f"--config.{path}"
    if name in kinds:
        return
    if inside := [known for known in kinds if known.startswith(f"{name}.")]:
        raise UserError(f"{name} is a group of fields: set one of them, such as {inside[0]}")
    raise UserError(f"unknown field {name}{_near(name, kinds)}; --print_config lists them all")


def _near(name: str, known: Iterable[str]) -> str:
    """The known flag most like ``name``, by all of it or (n_layer) by its last part."""
    known = list(known)
    last = {flag.rpartition(".")[2].lstrip("-"): flag for flag in reversed(known)}
    close = difflib.get_close_matches(name, known, 1, 0.8) or [
        last[part]
        for part in difflib.get_close_matches(name.rpartition(".")[2].lstrip("-"), last, 1)
    ]
    return f" (did you mean {close[0]}?)" if close else ""
