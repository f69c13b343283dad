"""A command line as values: a command's flags, and the overrides of its config.

In: argv and the command's flags. Out: an object with their values, the checked config among them.
absl and ml_collections parse; what they complain of is said in a user's words.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from gptjax.config import files, parse
from gptjax.config.foreign_names import nearest
from gptjax.config.schema import Config, fields
from gptjax.errors import UserError, is_utf8
from gptjax.runtime.object_store import is_remote


class _Integer(absl_flags.IntegerParser):
    """Python's numbers are more than people mean: 1_000, 0x10 and the digits of any script."""

    def convert(self, argument: Any) -> int:
        if isinstance(argument, str) and not re.fullmatch("[+-]?[0-9]+", argument):
            raise ValueError("not digits alone")
        return super().convert(argument)


class _Float(absl_flags.FloatParser):
    """As ``_Integer``."""

    def convert(self, argument: Any) -> float:
        if isinstance(argument, str) and not re.fullmatch(r"[+\-.a-zA-Z0-9]+", argument):
            raise ValueError("more than digits and an exponent")
        return super().convert(argument)


class _FlagValues(absl_flags.FlagValues):
    """absl's, without two flags of its own that no help page shows."""

    def read_flags_from_files(self, argv: Sequence[str], force_gnu: bool = True) -> list[str]:
        """Refuse --flagfile, which reads any file or waits for a pipe, and --undefok, for typos."""
        for argument in itertools.takewhile(lambda argument: argument != "--", argv):
            if own := re.match(r"--?(flagfile|undefok)(=|$)", argument):
                raise absl_flags.UnrecognizedFlagError(own[1])
        return list(argv)


_PARSERS = {int: _Integer(), float: _Float()}
for _kind, _parser in _PARSERS.items():  # of a config's fields, too
    config_flags.register_flag_parser_for_type(_kind, _parser)
_DEFINE = {
    bool: absl_flags.DEFINE_bool,
    int: functools.partial(absl_flags.DEFINE, _PARSERS[int]),
    float: functools.partial(absl_flags.DEFINE, _PARSERS[float]),
    str: absl_flags.DEFINE_string,
    list: absl_flags.DEFINE_multi_string,
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", dict: "a dict"}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a command: ``--name=value``, an attribute of what ``main`` gets.

    The type of ``default`` is the flag's; a list makes a flag that may be repeated, and a bare type
    (``int``) one without a default: None until it is set. ``choices``: what a str may be.
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


# Of every command that opens a run.
RUN_FLAGS = (
    Flag("workdir", "", "folder of the run, or gs://, s3://"),
    Flag("checkpoint", "best", "best, last or a step"),
)


def read(
    argv: Sequence[str],
    flags: Sequence[Flag],
    config: bool,
    words: str = "",
    saved: Callable[[str], Config | None] = lambda workdir: None,
) -> SimpleNamespace:
    """The flags of a command line as attributes, its own and those that every command has.

    ``argv`` begins with the command's name; ``config``, ``words``, ``saved`` and what they add are
    those of ``main.call``. After ``--help`` nothing else has been looked at. UserError: a mistake
    on the command line or in the config file.
    """
    flags = every(flags, config)
    kinds = {f"--{flag.name}": flag.choices or flag.type for flag in flags}
    values = _flag_values()
    for flag in flags:
        short = "h" if flag.name == "help" else None
        more = {"help": flag.meaning, "flag_values": values, "short_name": short}
        if flag.choices:
            absl_flags.DEFINE_enum(flag.name, flag.value, flag.choices, **more)
        else:
            _DEFINE[flag.type](flag.name, flag.value, **more)
    # First the command's own flags; what stays over are overrides of the config, or mistakes.
    rest = _parse(values, argv, kinds, known_only=True)
    args = SimpleNamespace(**{flag.name: values[flag.name].value for flag in flags})
    if args.help:
        return args
    _expand_folders(args)
    if config:
        kinds |= {f"--config.{field.path}": field.type for field in fields(Config())}
    # A flag that there is not is told first, before a config is asked for.
    own = [argument for argument in rest if not re.match(r"--?(no)?config\.", argument)]
    _parse(_flag_values(), own, kinds, known_only=False)
    values = _flag_values()
    if config:
        settings = files.load(args.config) if args.config else _saved_settings(args, saved)
        written = settings.copy_and_resolve_references()
        _override(values, settings, args.config, rest, kinds)
    rest = _parse(values, rest, kinds, known_only=False)
    if words:
        setattr(args, words, rest[1:])
    elif rest[1:]:
        raise UserError(f"unexpected {rest[1]!r}: flags are written --name=value; see --help")
    if config:
        args.config = parse.from_dict(settings)
        # A flag that repeats what the file says changes nothing.
        args.flagged = flagged = list(config_flags.get_override_values(values["config"]))
        args.overridden = [p for p in flagged if attrgetter(p)(settings) != attrgetter(p)(written)]
    return args


def _expand_folders(args: SimpleNamespace) -> None:
    """A shell leaves the ~ of --workdir=~/runs/x alone."""
    for flag in ("workdir", "out"):
        if isinstance(given := getattr(args, flag, None), list):
            setattr(args, flag, [_expanded(flag, path) for path in given])
        elif given is not None:
            setattr(args, flag, _expanded(flag, given))


def _expanded(flag: str, path: str) -> str:
    path = os.path.expanduser(path)
    if path.startswith("~"):
        user = path.partition("/")[0]
        raise UserError(f"--{flag}={path:.80}: there is no user {user[1:]!r}")
    if flag == "out" and is_remote(path):
        raise UserError(f"--out={path:.80} is a URL: name a folder, and copy it there")
    if not is_utf8(path):
        raise UserError(f"--{flag}={path!r:.80} is not UTF-8: name another folder")
    return path


def _saved_settings(args: SimpleNamespace, saved: Callable) -> ConfigDict:
    """Without --config: those of the run in the folder, or a UserError that says what to give."""
    workdir = getattr(args, "workdir", "")
    if workdir and (config := saved(workdir)):
        return parse.settings_of(config)
    no_run = f"{workdir} holds no run to continue, and " if workdir else ""
    way_out = "" if workdir else "; to continue a run, name its folder with --workdir"
    raise UserError(
        f"{no_run}--config is missing: to train, choose one of {', '.join(files.names())}"
        f"{way_out}; --help says more"
    )


def _override(
    values: absl_flags.FlagValues, settings: ConfigDict, file: str, rest: list[str], kinds: dict
) -> None:
    """Define flags that set the fields of a config; ``kinds`` has theirs."""
    for argument in rest[1:]:
        named = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        name = f"--config.{named[1]}" if named else ""
        if not named or name in kinds:
            continue
        if inside := [known for known in kinds if known.startswith(f"{name}.")]:
            raise UserError(f"{name} is a group of fields: set one of them, such as {inside[0]}")
        near = nearest(name, kinds)
        raise UserError(f"unknown field {name}{near}; --print_config lists them all")
    try:
        config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=rest)
    except (KeyError, AttributeError, TypeError, absl_flags.Error) as error:
        raise UserError(
            f"{file} lacks a field that the flags set: let its get_config() start from "
            "gptjax.config.base()"
        ) from error


def every(flags: Sequence[Flag], config: bool) -> list[Flag]:
    """The command's own flags, then those that every command has."""
    if config:
        about = f"a .py file with get_config(), or one of {', '.join(files.names())}; gpt:small "
        about += "names a size; without it the run in --workdir goes on with its own"
        shown = "list every field with the value in force, and end"
        flags = [*flags, Flag("config", "", about), Flag("print_config", False, shown)]
    return [
        *flags,
        Flag("compilation_cache", True, "keep compiled programs on disk for the next run"),
        Flag("debug", False, "show where an error comes from, and what the libraries log"),
        Flag("help", False, "show this page, and end"),
    ]


def _flag_values() -> absl_flags.FlagValues:
    """An empty set of flags: absl's global one is never touched."""
    values = _FlagValues()
    values.set_gnu_getopt(True)  # flags after a stray argument are read, too
    return values


def _parse(
    values: absl_flags.FlagValues, argv: Sequence[str], kinds: Mapping[str, Any], known_only: bool
) -> list[str]:
    """Let absl parse; what it complains of is said in a user's words."""
    try:
        return values(argv, known_only=known_only)
    except absl_flags.UnrecognizedFlagError as error:
        name = f"--{error.flagname}"
        raise UserError(f"unknown flag {name}{nearest(name, kinds)}; see --help") from error
    except absl_flags.IllegalFlagValueError as error:
        # absl: "flag --name=value: reason", the reason in Python's words.
        text = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
        kind = kinds.get(text.partition("=")[0], str)
        needed = " or ".join(kind) if isinstance(kind, tuple) else _WORDS.get(kind, "text")
        raise UserError(f"{text} is wrong: it must be {needed}") from error
    except absl_flags.Error as error:
        text = str(error)
        raise UserError(f"{text[:1].lower()}{text[1:]}; see --help") from error
