"""One page that shows what a model does: curves, each token's loss, attention, vectors, lessons.

    python -m gptjax.report --workdir=runs/gpt-small
    python -m gptjax.report --workdir=runs/gpt-small --text="To be, or not to be" --out=page.html

In: a work folder. Out: one HTML file that needs no server and no network. Where several checkpoints
were kept (checkpoint.keep_every), a slider moves what it shows through the training.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax.cli import main as cli
from gptjax.data.text_file import read_text
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.runtime.object_store import is_remote

if TYPE_CHECKING:  # JAX takes seconds to import: a mistake is told before
    from gptjax.checkpoints.run import Run
    from gptjax.data.corpora import Corpus
    from gptjax.data.dataset import Split

PAGE = "report.html"


def write(
    run: Run,
    workdir: Path,
    out: Path,
    text: str = "",
    busy: Any = None,
    known: tuple[Corpus, Mapping[str, Split]] | None = None,
) -> None:
    """Write the page of a run; ``known``: its corpus and splits, where they have been read."""
    from gptjax.runtime.atomic_files import write_whole
    from gptjax.web import context, page, payload

    of_page = context.of_run(run, workdir, text, known)
    steps = payload.shown_steps(workdir, run.step)
    data = payload.page_data(run, of_page, steps, busy)
    write_whole(out, page.html_page(data, run.config.name).encode())


def main(args: Any) -> int:
    """Write the page and name its file."""
    if args.text and args.text_file:
        raise UserError("--text and --text_file are two texts: give one of them")
    text = read_text(args.text_file) if args.text_file else args.text
    folder = "." if is_remote(args.workdir) else args.workdir
    out = Path(args.out or f"{folder}/{PAGE}")
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: name a file, such as {out / PAGE}")
    with Terminal() as terminal:
        with terminal.doing("opening the run"):
            from gptjax.checkpoints import mirror
            from gptjax.checkpoints.run import open_for_command

            run = open_for_command(args.workdir, args.checkpoint, terminal.warn)
        with terminal.doing("looking inside"):
            within = mirror.reading(args.workdir, "every", ("params",))
            out.parent.mkdir(parents=True, exist_ok=True)
            told = functools.partial(terminal.busy, "looking inside, checkpoints")
            write(run, within, out, text, told)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB): open it in a browser")
    return 0


FLAGS = [
    *cli.RUN_FLAGS,
    cli.Flag("text", "", "the text whose tokens are looked at; the beginning of val when empty"),
    cli.Flag("text_file", "", "a UTF-8 file that holds that text; for items one a line"),
    cli.Flag("out", "", "the HTML file; report.html in the folder of the run when empty"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
