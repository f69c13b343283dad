"""Makes a notebook of a Python script in jupytext's percent format.

    python launch/percent.py launch/notes.py        # writes launch/notes.ipynb beside it

A line `# %% name` begins a cell of code, `# %% name [markdown]` one of text, whose lines are
comments; `# %% name tags=["parameters"]` tags it. Names become the cells' ids. The script is what
people edit and review; a test holds the two together. Standard library only.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

CELL = re.compile(r"# %% (?P<id>[a-z0-9-]+)(?P<text> \[markdown\])?(?: tags=(?P<tags>\[.*\]))?")


def notebook(script: str) -> dict[str, Any]:
    """Turn a script into a notebook without outputs.

    Args:
      script: the text; what stands before the first cell is left out.

    Returns:
      The notebook as JSON types, nbformat 4.5.

    Raises:
      ValueError: a line that begins like a cell and is none.
    """
    cells: list[dict[str, Any]] = []
    for line in script.splitlines():
        if line.startswith("# %%"):
            head = CELL.fullmatch(line)
            if head is None:
                raise ValueError(f"not a cell: {line!r}")
            kind = "markdown" if head["text"] else "code"
            metadata = {"tags": json.loads(head["tags"])} if head["tags"] else {}
            cell = {"cell_type": kind, "id": head["id"], "metadata": metadata, "source": []}
            if kind == "code":
                cell |= {"execution_count": None, "outputs": []}
            cells.append(cell)
        elif cells:
            cells[-1]["source"].append(line)
    for cell in cells:
        lines = "\n".join(cell["source"]).strip("\n").split("\n")
        if cell["cell_type"] == "markdown":
            lines = [re.sub("^# ?", "", line) for line in lines]
        cell["source"] = [line + "\n" for line in lines[:-1]] + lines[-1:]
    kernel = {"display_name": "Python 3", "name": "python3"}
    metadata = {"colab": {"provenance": []}, "kernelspec": kernel}
    metadata["language_info"] = {"name": "python"}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def text(script: str) -> str:
    """The notebook as the text of its file."""
    return json.dumps(notebook(script), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        made = text(Path(name).read_text(encoding="utf-8"))
        Path(name).with_suffix(".ipynb").write_text(made, encoding="utf-8")
