"""One HTML file of a page's data: its styles, scripts and words are within it, no link leads out.

In: the data of ``payload``. Out: the text of the file, which a notebook can show too. The scripts
of ``assets/js`` are modules that import each other; here they become one, for a module in a file
cannot name another one.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.monitoring.metrics import plain
from gptjax.runtime.atomic_files import write_whole

_IMPORT = re.compile(r'^import \{[^}]*\} from "(\./|\.\./)([\w/]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class|let) )", re.MULTILINE)
_HEIGHT = 780  # pixels of the page within a notebook: what a screen has below its head
# Of the server the page may ask its own address; of a file nobody.
_ASKS = {False: "'none'", True: "'self'"}


def assets() -> Traversable:
    """The folder of the page's own files."""
    return resources.files("gptjax.web") / "assets"


def read(name: str) -> str:
    """The text of one of them, by its path in ``assets``."""
    return (assets() / name).read_text("utf-8")


def words() -> dict[str, str]:
    """Every sentence and label of the page, by its name."""
    return json.loads(read("words.json"))


@functools.cache
def script(entry: str = "js/main.js") -> str:
    """The modules that ``entry`` needs as one: each once, and before those that import it."""
    joined: dict[str, str] = {}

    def add(name: str) -> None:
        if name in joined:
            return
        text, folder = read(name), name.rpartition("/")[0]
        joined[name] = ""  # in a circle the first one seen stands last
        for dots, path in _IMPORT.findall(text):
            above = folder.rpartition("/")[0] if dots == "../" else folder
            add(f"{above}/{path}")
        del joined[name]
        joined[name] = _EXPORT.sub("", _IMPORT.sub("", text))

    add(entry)
    return "\n".join(f"// {name}\n{text}" for name, text in joined.items())


@functools.cache
def style() -> str:
    """All styles: those of the whole page first."""
    folder = assets() / "css"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".css"))
    return "\n".join([read("css/page.css"), *(read(f"css/{n}") for n in names if n != "page.css")])


def html_page(data: Mapping[str, Any] | None, title: str, live: bool = False) -> str:
    """The page of a run; ``data`` None: a ``live`` one that asks its server for them."""
    code = script()
    # The policy lets this very script run, and nothing that a text of the run could smuggle in.
    sha = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{sha}'"
    )
    policy += f"; connect-src {_ASKS[live]}; base-uri 'none'; form-action 'none'"
    parts = {
        "policy": html.escape(policy, quote=True),
        "title": html.escape(title),
        "style": style(),
        "live": "yes" if live else "no",
        "words": _as_json(words()),
        "data": _as_json(data),
        "script": code,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))


@dataclasses.dataclass(frozen=True)
class Shown:
    """The page of a run: a notebook shows it below the cell that it ends."""

    name: str
    html: str  # of ``html_page``

    def _repr_html_(self) -> str:
        # A frame of its own: neither its styles nor its scripts meet the notebook's.
        source = self.html.replace("&", "&amp;").replace("'", "&#39;")
        title = self.name.replace("&", "&amp;").replace('"', "&quot;")
        style = f"width: 100%; height: {_HEIGHT}px; border: 0; resize: vertical"
        return (
            f'<iframe title="{title}" style="{style}" sandbox="allow-scripts" '
            f"srcdoc='{source}'></iframe>"
        )

    def __repr__(self) -> str:
        return (
            f"<the page of {self.name}, {len(self.html) / 1e6:.1f} MB: a notebook shows it where a "
            'cell ends with it; elsewhere .save("page.html") writes it for a browser>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the page as a file that any browser opens; returns its path."""
        path = Path(os.path.expanduser(path))
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file, such as {path / 'page.html'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.html.encode())
        return path


def _as_json(value: Any) -> str:
    """JSON that can stand within a script element whatever texts it holds."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    escaped = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return escaped.encode("utf-8", "backslashreplace").decode()
