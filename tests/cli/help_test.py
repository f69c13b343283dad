"""The help page shows every flag; what --print_config shows can be given back as flags."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_command import ABOUT, FLAGS, call, fails, read

from gptjax.cli import help
from gptjax.config import schema


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_what_the_command_does_and_every_flag(flag, capsys):
    assert call(fails, flag) == 0
    out, err = capsys.readouterr()
    assert "Do a thing." in out and "python -m gptjax.toy --number=3" in out
    assert "inner matters" not in out and err == ""
    for line in ("--number=7", "--heat=0.5", "--loud=false", "--split=val", "--debug=false"):
        assert f"\n{line} " in out
    assert "\n--seed " in out and "how many, pieces" in out and "config" not in out


def test_the_consoles_command_is_shown_as_it_is_called():
    page = help.help_page("gptjax toy", ABOUT, FLAGS, None)
    assert page.startswith("usage: gptjax toy [--flag=value ...]\n")
    assert "\n    gptjax toy --number=3\n" in page and "python -m" not in page


def test_help_needs_no_config_and_lists_its_fields(capsys):
    assert call(fails, "--config=nowhere", "--help", config=True) == 0
    out = capsys.readouterr().out
    for field in schema.fields(schema.Config()):
        # A long meaning is wrapped at the terminal's width.
        assert f"\n--config.{field.path}=" in out
        assert " ".join(field.meaning.split()) in " ".join(out.split())
    assert "bigram_embed" in out


def test_print_config_can_be_given_back_as_flags(capsys):
    first = ["--config=gpt:small", "--config.model.n_layer=3", "--config.sample.prompt=it's so"]
    first += ["--config.expected={'names': (1.5, 2)}", "--config.optim.learning_rate=3e-5"]
    assert call(fails, *first, "--print_config", config=True) == 0
    out = capsys.readouterr().out
    given = []
    for line in out.splitlines():
        if line.startswith("--config."):
            # Two spaces end the value: none here holds two.
            given += shlex.split(line[: line.index("  ")])
    asked = read(*first, config=True)
    again = read("--config=bigram", *given, config=True)
    assert again.config == asked.config
    assert [flag.split("=")[0] for flag in given] == [
        f"--config.{field.path}" for field in schema.fields(asked.config)
    ]


# A ~ in front stands for a user's folder.
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text[:1] != "~")


@given(text=TEXTS, number=st.floats())
def test_a_shown_flag_reads_back_as_its_value(text, number):
    argv = shlex.split(f"{help._flag('workdir', text)} {help._flag('heat', number)}")
    args = read(*argv)
    assert args.workdir == text and repr(args.heat) == repr(number)


def test_a_page_fits_the_terminal(monkeypatch):
    rows = [("--a=1", "int", "word " * 30), ("--longer=2", "float", "short")]
    monkeypatch.setenv("COLUMNS", "60")
    lines = help.table(rows).split("\n")
    assert max(map(len, lines)) < 60 and lines[1].startswith(" " * 19 + "word")
    assert " ".join(" ".join(lines).split()).count("word") == 30
    monkeypatch.setenv("COLUMNS", "30")  # too narrow to wrap
    assert len(help.table(rows).split("\n")) == 2
