"""Anything at all where files and command lines are read: a value or one line, never a crash."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.checkpoints import run
from gptjax.cli import main as cli
from gptjax.config import schema
from gptjax.config.parse import from_dict
from gptjax.config.schema import TOKENIZERS, TokenizerConfig
from gptjax.data import tokenizers
from gptjax.data.splits import split_items
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.runtime import compilation_cache
from gptjax.training import resume

FIELDS = list(schema.fields(schema.Config()))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
SCALARS |= st.sampled_from([2**31, 2**63, -(2**63), 10**400, 1e-320, "gpt", "char", "\0", "\ud800"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def tidy(error: UserError) -> None:
    assert "\n" not in str(error).replace("\\n", "")
    assert len(str(error)) < 2_000


def nested(path: str, value) -> dict:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


@settings(max_examples=400)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_in_any_field_is_taken_as_it_is_or_refused_by_name(field, value):
    try:
        config = from_dict(nested(field.path, value))
    except UserError as error:
        assert field.path.split(".")[-1] in str(error) or "data." in str(error)
        return
    found = {f.path: f.value for f in schema.fields(config)}
    if field.path != "expected":
        wanted = float(value) if field.type is float else value  # 2**53 + 1 is no float
        assert found[field.path] == wanted and type(found[field.path]) is field.type
    again = from_dict(json.loads(json.dumps(schema.to_dict(config))))
    assert again == config and schema.differences(again, config) == []


@given(values=JSON | st.dictionaries(st.sampled_from([f.path.split(".")[0] for f in FIELDS]), JSON))
def test_any_json_is_a_config_or_is_refused(values):
    with contextlib.suppress(UserError):
        from_dict(values)


MEMORY = {"evaluated": 7, "best": {"step": 7, "val_nats": 2.5}, "pending": [[1.0, 0.5]]}
MEMORY |= {"train_seconds": 1.0, "timed": [3, 0.5], "evaluation_seconds": 0.2}
MEMORY |= {"gather_seconds": 0.05, "checkpoint_seconds": 0.1, "lines": 9}
META = {
    "config": schema.to_dict(schema.Config()),
    "tokenizer": {"kind": "char", "vocabulary": ["\n", "a", "b"]},
    "data": {"kind": "stream", "sha256": "0" * 64, "name": "x", "source": "y"},
    "memory": MEMORY,
}


def places(value, path=()):
    """Every path into nested dicts and lists."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inner if isinstance(value, (dict, list)) else ():
        if isinstance(part, (dict, list)):
            yield from places(part, (*path, key))
        else:
            yield (*path, key)


@settings(max_examples=400)
@given(place=st.sampled_from(list(places(META))[1:]), value=JSON, drop=st.booleans())
def test_any_meta_of_a_checkpoint_is_understood_or_refused(place, value, drop, tmp_path_factory):
    meta = json.loads(json.dumps(META))
    *outer, last = place
    inside = meta
    for key in outer:
        inside = inside[key]
    if drop:
        del inside[last]
    else:
        inside[last] = value
    folder = tmp_path_factory.getbasetemp()
    try:  # to use the model, which needs no memory of the training
        saved = run.understand(folder, meta)
        assert saved.tokenizer.vocab_size > 0
        assert saved.data is None or saved.data["kind"] in ("stream", "items")
    except UserError as error:
        assert "checkpoint" in str(error) and "--workdir" in str(error)
    try:  # to go on training
        saved, progress = resume._understand(folder, meta)
    except UserError as error:
        assert "checkpoint" in str(error) or "no history of training" in str(error)
        assert "--workdir" in str(error)
        return
    assert saved.tokenizer.vocab_size > 0 and saved.data["kind"] in ("stream", "items")
    assert all(len(pair) == 2 for pair in progress.pending)


def test_the_untouched_meta_is_understood(tmp_path):
    assert resume._understand(tmp_path, META)[1].to_json() == MEMORY
    # A run from before they were kept.
    for name in ("lines", "gather_seconds", "evaluation_seconds", "checkpoint_seconds"):
        older = META | {"memory": {k: v for k, v in MEMORY.items() if k != name}}
        resume._understand(tmp_path, older)


LINE = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12)


@given(lines=st.lists(LINE, max_size=30), seed=st.integers(0, 2**32))
def test_items_are_dealt_out_whole_once_and_the_same_each_time(lines, seed):
    wanted = {line.rstrip() for line in lines} - {""}
    text = "\n".join(lines)
    if len(wanted) < 3:
        with pytest.raises(UserError, match=f"{len(wanted)} distinct items"):
            split_items(text, seed)
        return
    splits, n_duplicates = split_items(text, seed)
    dealt = [item for part in splits.values() for item in part]
    assert sorted(dealt) == sorted(wanted) and all(splits.values())
    assert n_duplicates == sum(bool(line.rstrip()) for line in lines) - len(wanted)
    assert split_items(text, seed) == (splits, n_duplicates)


@given(text=st.text(max_size=40), kind=st.sampled_from(TOKENIZERS), other=st.text(max_size=9))
def test_a_tokenizer_gives_back_its_text_and_survives_any_other(text, kind, other):
    try:
        made = tokenizers.build(TokenizerConfig(kind), text)
    except UserError as error:
        assert not text or "surrogate" in str(error)
        return
    saved = tokenizers.from_json(json.loads(json.dumps(made.to_json())))
    assert saved == made or kind == "byte"
    assert saved.decode(saved.encode(text)) == text
    try:
        saved.decode(saved.encode(other))
    except UserError as error:
        tidy(error)


@given(data=st.binary(max_size=200) | st.lists(JSON, max_size=5).map(repr).map(str.encode))
def test_any_bytes_where_metrics_should_be_leave_whole_lines(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data + b'\n{"step": 4, "loss_nats": 1.5}\n')
    lines = metrics.JsonLines(path, 4)
    lines.write({"step": 5, "loss_nats": 1.25})
    lines.close()
    records = metrics.read(path)
    assert [r["step"] for r in records[-2:]] == [4, 5] and all("step" in r for r in records)
    assert path.read_bytes().endswith(b"\n") and lines.n_lines == len(records)


WORDS = [f"--config.{field.path}" for field in FIELDS]
WORDS += ["--config", "--workdir", "--help", "--replay_step", "--", "-h", "-1", "=", ""]
FLAG = st.sampled_from(WORDS) | st.text(max_size=6)
VALUE = st.text(max_size=8) | st.integers().map(str) | st.floats().map(str)
ARGUMENT = st.builds(lambda flag, value: f"{flag}={value}", FLAG, VALUE) | FLAG | VALUE
FLAGS = [cli.Flag("workdir", "", "folder"), cli.Flag("replay_step", int, "a step")]


@settings(max_examples=250)
@given(argv=st.lists(ARGUMENT, max_size=4), config=st.booleans())
def test_any_command_line_ends_in_its_command_or_in_one_line(argv, config):
    printed = []
    first = ["--config=gpt:small"] if config else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation_cache, "switch", lambda on: None)
        patch.setattr("builtins.print", lambda *a, **k: printed.append((a, k.get("file"))))
        code = cli.call(lambda args: 0, ["train", *first, *argv], flags=FLAGS, config=True)
    said = [a[0] for a, file in printed if file is sys.stderr]
    assert code in (0, 2)
    assert len(said) == (code == 2)
    assert all("\n" not in line and line.startswith("train: ") for line in said)
