"""The page: its words, its scripts joined to one, and texts that would break out of it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from gptjax.web import arrays, page

SCRIPTS = {
    path.relative_to(str(page.assets())).as_posix(): path.read_text("utf-8")
    for path in sorted(page.assets().rglob("*.js"))
}
# A key stands in quotes where it is used: t("run.loss"), title: "run.title".
KEY = re.compile(r'"([a-z_]+\.[a-z0-9_.]+)"')


def test_every_word_is_used_and_every_used_one_exists():
    words = page.words()
    assert list(words) == sorted(words)
    used = {key for text in SCRIPTS.values() for key in KEY.findall(text)}
    used = {key for key in used if not key.endswith(".js")}
    families = {key.rpartition(".")[0] for key in words}
    assert {key for key in used if key.rpartition(".")[0] in families} <= set(words)
    # Some are named by a part that is computed: `diagrams.${kind}`.
    computed = {
        m for text in SCRIPTS.values() for m in re.findall(r"`([a-z_]+\.[a-z0-9_.]*)\$", text)
    }
    unused = {
        key for key in words if key not in used and not key.startswith(tuple(computed) or "-")
    }
    assert unused == set()


def test_no_sentence_stands_in_a_script():
    # Three words in a row within quotes are a text for readers, which belongs into words.json.
    for name, text in SCRIPTS.items():
        code = re.sub(r"//.*|/\*.*?\*/", "", text)
        sentences = re.findall(r'"[^"\n]*[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}[^"\n]*"', code)
        assert [s for s in sentences if "words.json" not in s] == [], name


def test_the_modules_become_one_script():
    joined = page.script()
    assert "import {" not in joined and not re.search(r"^export ", joined, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", joined, re.MULTILINE)
    assert sorted(names) == sorted(set(names)), "a name stands in two modules"
    assert {name for name in SCRIPTS if f"// {name}\n" not in joined} == set()
    if shutil.which("node"):
        done = subprocess.run(
            ["node", "--check", "--input-type=module", "-"],
            input=joined.encode(),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()


def test_no_text_of_a_run_can_leave_its_element():
    evil = "</script><script>alert(1)</script>\u2028<!--\udc80"
    made = page.html_page({"name": evil, "{{script}}": "{{data}}"}, evil)
    assert made.count("</script>") == 3
    assert made.count("<script") == 3
    text = re.search(r'id="data">(.*?)</script>', made, re.DOTALL)[1]
    assert json.loads(text)["name"] == evil
    assert "&lt;/script&gt;" in re.search("<title>(.*?)</title>", made, re.DOTALL)[1]


def test_a_file_asks_nobody_and_a_live_page_its_server_alone():
    for live, asks in ((False, "'none'"), (True, "'self'")):
        made = page.html_page(None, "x", live)
        policy = re.search('Content-Security-Policy" content="([^"]*)"', made)[1].replace(
            "&#x27;", "'"
        )
        assert f"connect-src {asks}" in policy and "default-src 'none'" in policy
        assert not re.search(r"""(src|href)=["'](?!data:,)(https?:)?//""", made)


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("unit", np.linspace(0, 1, 35).reshape(5, 7)),
        ("int", np.arange(12).reshape(3, 4)),
        ("int", np.arange(12).reshape(3, 4) * 70_000),
        ("float", np.linspace(-9, 9, 10).reshape(5, 2)),
    ],
)
def test_packed_numbers_are_those_that_were_given(kind, array):
    import base64

    packed = arrays.pack(array, kind)
    dtype = {"unit": "<u2", "u16": "<u2", "u32": "<u4", "float": "<f4"}[packed["kind"]]
    back = np.frombuffer(base64.b64decode(packed["base64"]), dtype).reshape(packed["shape"])
    scale = arrays.UNIT_STEPS if kind == "unit" else 1
    np.testing.assert_allclose(back / scale, array, atol=1e-5, rtol=1e-6)


def test_what_a_kind_cannot_hold_is_refused():
    for kind, array in (("unit", [1.01]), ("unit", [np.nan]), ("int", [-1]), ("other", [1])):
        with pytest.raises(ValueError):
            arrays.pack(array, kind)


def test_a_frame_within_a_notebook_holds_the_whole_page():
    evil = "<script>alert('&amp; \"no\"')</script>"
    shown = page.Shown(evil, page.html_page({"name": evil}, evil))

    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(shown._repr_html_())
    ((tag, attributes),) = found
    assert tag == "iframe" and attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == shown.html and attributes["title"] == evil
