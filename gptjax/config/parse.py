"""Nested mappings as a checked ``Config``: what a config file returned, or a checkpoint's JSON.

In: the ConfigDict of a file in ``configs/`` (with the command line's overrides already in it), or
plain dicts. Out: a ``Config``, or one line that names the field, the value and the way out.
"""

import dataclasses
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from ml_collections import ConfigDict

from gptjax.config.foreign_names import nearest
from gptjax.config.schema import Config, Part, fields, to_dict
from gptjax.errors import UserError, last_part

PATHS = [field.path for field in fields(Config())]


def base() -> ConfigDict:
    """Every field at its default, for config files to start from; a misspelt one is an error."""
    return settings_of(Config())


def settings_of(config: Config) -> ConfigDict:
    """The settings that ``from_dict`` makes this config of, locked."""
    settings = ConfigDict(to_dict(config) | {"expected": {}}, type_safe=True).lock()
    # Open, and with dots: its fields are the names of corpora, files among them.
    settings.expected = ConfigDict(config.expected, allow_dotted_keys=True)
    return settings


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build the checked ``Config`` from nested mappings; absent fields keep their default.

    UserError: an unknown field (the nearest known one is named), a wrong type, a bad value.
    """
    return _build(Config, values.to_dict() if isinstance(values, ConfigDict) else values, "")


def override(settings: ConfigDict, values: Mapping[str, Any]) -> list[str]:
    """Set fields by their paths or, where only one field has it, last names.

    Returns the paths of those that changed. UserError: a name of no field, of several, or that is
    given twice; the values are checked by ``from_dict``.
    """
    before, named = from_dict(settings), {}
    for name, value in values.items():
        if (path := find_path(name)) in named:
            raise UserError(f"{path} is given twice: leave one of them out")
        named[path] = value
    with settings.unlocked(), settings.ignore_type():
        for path, value in named.items():
            *groups, last = path.split(".")
            part = settings
            for group in groups:
                if group not in part:  # a ConfigDict that did not start from ``base()``
                    part[group] = ConfigDict()
                part = part[group]
            part[last] = value
    after = from_dict(settings)
    return [path for path in named if attrgetter(path)(before) != attrgetter(path)(after)]


def find_path(name: str) -> str:
    """The path of the field that ``name`` stands for; UserError: no field, or several."""
    if name in PATHS:
        return name
    same = [path for path in PATHS if last_part(path) == name]
    if len(same) == 1:
        return same[0]
    if same:
        these = " or ".join(f'**{{"{path}": ...}}' for path in same)
        raise UserError(f"several fields are called {name}: write {these}")
    near = nearest(name, [*PATHS, "workdir"])
    raise UserError(f"unknown field {name}{near}; python -m gptjax.train --help lists them all")


def _build(part: type, values: Any, prefix: str) -> Any:
    kinds = {field.name: field.type for field in dataclasses.fields(part)}
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'the config'} must hold fields, not {values!r}")
    built = {}
    for name, value in values.items():
        path = prefix + str(name)
        if name not in kinds:
            near = nearest(path, PATHS)
            raise UserError(f"unknown field {path}{near}; --print_config lists them all")
        if issubclass(kinds[name], Part):
            value = _build(kinds[name], value, f"{path}.")
        elif kinds[name] is dict:
            if not isinstance(value, Mapping):
                raise UserError(f"{path} must map a corpus name to (low, high) nats, not {value!r}")
            value = {corpus: _floats(band, path) for corpus, band in value.items()}
        elif kinds[name] is float:
            value = _float(value, path)
        built[name] = value
    return part(**built)


def _float(value: Any, path: str) -> Any:
    """A number as Python's float: an int, or numpy's float64, which prints as no number does."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"{path} is a number of {len(str(value))} digits") from error


def _floats(band: Any, path: str) -> Any:
    return tuple(_float(x, path) for x in band) if isinstance(band, (tuple, list)) else band
