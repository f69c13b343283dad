"""One run as a tree of frozen dataclasses: the only thing below the verbs that knows the settings.

In: the ConfigDict of a file in ``configs/`` (with the command line's overrides already in it), or
the JSON of a checkpoint. Out: a ``Config`` that has checked itself. Each part is defined beside
the code it configures; this file only assembles them, names unknown fields and lists them all.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from gptjax.checkpoints.store import CheckpointConfig
from gptjax.data.splits import DataConfig
from gptjax.data.tokenizers import TokenizerConfig
from gptjax.errors import UserError
from gptjax.generation.generate import SampleConfig
from gptjax.models import ModelConfig
from gptjax.training.optimizer import OptimConfig
from gptjax.training.scan import TrainConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run the run it is; the work folder is not part of it."""

    name: Annotated[str, "what the run is called; names the default work folder"] = "run"
    why: Annotated[str, "why this size was chosen, shown in the header"] = ""
    seed: Annotated[int, "of the weights, the batches, the dropout and the shuffle of items"] = 1337
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    expected: Annotated[dict, "corpus name -> (low, high): the band of final_val_nats"] = (
        dataclasses.field(default_factory=dict)
    )

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} must be at least 0 and below 2**32")
        if not self.name or self.name.strip(".") == "" or set(self.name) & set("/\\\0"):
            raise UserError(
                f"name={self.name!r:.80} must be the name of a folder, without / or \\: --workdir "
                "puts the run elsewhere"
            )
        window, block_size = self.train.window, self.model.block_size
        if self.model.kind not in ("bigram", "ngram", "mlp") and window > block_size:
            raise UserError(
                f"train.window={window} is longer than model.block_size={block_size}, all that "
                f"model.kind={self.model.kind!r} can read: shorten it, or 0 takes the block"
            )

    def window(self, items: bool) -> int:
        """Predictions of a row; 0 where an item is taken as far as the model can.

        A bigram table looks at one token, but learns from rows as long as model.block_size.
        """
        return self.train.window or (0 if items else self.model.block_size)


@dataclasses.dataclass(frozen=True)
class Field:
    """One settable value: its dotted path, type, default (or value) and meaning."""

    path: str
    type: type
    value: Any
    meaning: str


def fields(config: Config, prefix: str = "") -> Iterator[Field]:
    """Every field of a config, depth first, in the order of the classes.

    Args:
      config: a ``Config`` (or, in the recursion, one of its parts).
      prefix: the dotted path of ``config``.

    Yields:
      A ``Field`` per leaf.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            kind, meaning = get_args(hint) if get_origin(hint) is Annotated else (hint, "")
            yield Field(prefix + field.name, kind, value, meaning)


def base() -> ConfigDict:
    """Every field at its default, as the ConfigDict a file in ``configs/`` starts from.

    Returns:
      A locked ConfigDict: a misspelt field is an error, not a new field.
    """
    config = ConfigDict(dataclasses.asdict(Config()), type_safe=True)
    config.lock()
    config.expected = ConfigDict()  # open: its fields are the names of corpora
    return config


def from_dict(values: Mapping[str, Any]) -> Config:
    """Build the checked ``Config`` from nested mappings.

    Args:
      values: a ConfigDict or the plain dict of ``to_dict``; absent fields keep their default.

    Returns:
      The config.

    Raises:
      UserError: an unknown field (the nearest known one is named), a wrong type, a bad value.
    """
    if isinstance(values, ConfigDict):
        values = values.to_dict()
    return _build(Config, values, "")


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dicts, ready for JSON; ``from_dict`` undoes it."""
    return dataclasses.asdict(config)


def differences(ours: Config, theirs: Config, ignore: tuple[str, ...] = ()) -> list[str]:
    """The fields in which two configs differ, each as ``path: theirs -> ours``.

    Args:
      ours: the config asked for.
      theirs: the config found.
      ignore: dotted paths (or first parts of them) that do not count.

    Returns:
      One string per field that differs.
    """
    return [
        f"{a.path}: {b.value!r} -> {a.value!r}"
        for a, b in zip(fields(ours), fields(theirs), strict=True)
        if a.value != b.value and a.path not in ignore and a.path.split(".")[0] not in ignore
    ]


def nearest(path: str) -> str:
    """A sentence's end that names the known field nearest to ``path``, or "" when none is near."""
    known = [field.path for field in fields(Config())]
    last = {p.rsplit(".", 1)[-1]: p for p in reversed(known)}
    close = difflib.get_close_matches(path, known, 1) or [
        last[name] for name in difflib.get_close_matches(path.rsplit(".", 1)[-1], last, 1)
    ]
    return f" (did you mean {close[0]}?)" if close else ""


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'the config'} must hold fields, not {values!r}")
    for name in values:
        if name not in hints:
            path = prefix + str(name)
            raise UserError(f"unknown field {path}{nearest(path)}; --print_config lists them all")
    built = {}
    for name, value in values.items():
        hint, path = hints[name], prefix + name
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, value, path + ".")
        elif hint is dict:
            built[name] = _bands(value, path)
        else:
            built[name] = _typed(value, hint, path)
    return cls(**built)


def _typed(value: Any, kind: type, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise UserError(f"{path} is a number of {len(str(value))} digits") from error
    # bool is a subclass of int: n_layer=True is a mistake, not a 1.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{path}={value!r} is {type(value).__name__}, must be {kind.__name__}")
    return kind(value) if kind is float else value  # numpy's float64 is a float, and prints as none


def _bands(value: Any, path: str) -> dict[str, tuple[float, float]]:
    if not isinstance(value, Mapping):
        raise UserError(f"{path} must map a corpus name to (low, high) nats, not {value!r}")
    bands = {}
    for name, band in value.items():
        two = isinstance(band, (tuple, list)) and len(band) == 2
        if not two or not all(type(x) in (int, float) for x in band) or not band[0] <= band[1]:
            raise UserError(f"{path}.{name} must be (low, high) nats, not {band!r}")
        bands[name] = (float(band[0]), float(band[1]))
    return bands
