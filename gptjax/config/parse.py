"""Nested mappings as a checked ``Config``: what a config file returned, or a checkpoint's JSON.

In: the ConfigDict of a file in ``configs/`` (with the command line's overrides already in it), or
plain dicts. Out: a ``Config``, or one line that names the field, the value and the way out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gptjax.config.schema import Config, Part, fields, to_dict
from gptjax.errors import UserError, did_you_mean


def base() -> ConfigDict:
    """Every field at its default, for config files to start from; a misspelt one is an error."""
    config = ConfigDict(to_dict(Config()), type_safe=True).lock()
    config.expected = ConfigDict()  # open: its fields are the names of corpora
    return config


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build the checked ``Config`` from nested mappings; absent fields keep their default.

    UserError: an unknown field (the nearest known one is named), a wrong type, a bad value.
    """
    return _build(Config, values.to_dict() if isinstance(values, ConfigDict) else values, "")


def _build(part: type, values: Any, prefix: str) -> Any:
    kinds = {field.name: field.type for field in dataclasses.fields(part)}
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'the config'} must hold fields, not {values!r}")
    built = {}
    for name, value in values.items():
        path = prefix + str(name)
        if name not in kinds:
            near = did_you_mean(path, (field.path for field in fields(Config())))
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
