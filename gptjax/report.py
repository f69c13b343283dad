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
    from gptjax.training.experiment import Experiment

PAGE = "report.html"


def write(
    run: Run,
    workdir: Path,
    out: Path,
    text: str = "",
    busy: Any = None,
    known: tuple[Corpus, Mapping[str, Split]] | None = None,
    most: int = 0,
) -> None:
    """Write the page of a run.

    ``known``: its corpus and splits, where they have been read; ``most``: the most checkpoints to
    show, 0 for ``payload.MOST_CHECKPOINTS``.
    """
    from gptjax.runtime.atomic_files import write_whole
    from gptjax.web import context, page, payload

    of_page = context.of_run(run, workdir, text, known)
    steps = payload.shown_steps(workdir, run.step, most or payload.MOST_CHECKPOINTS)
    data = payload.page_data(run, of_page, steps, busy)
    write_whole(out, page.html_page(data, run.config.name).encode())


def after_training(exp: Experiment, within: Path, workdir: str | Path, terminal: Terminal) -> None:
    """Write the page of a run that has just ended, if that takes no longer than a reader waits.

    ``within``: its folder, of the URL ``workdir`` a copy. The run is finished and saved: what goes
    wrong here is told and changes nothing.
    """
    from gptjax.checkpoints.run import open_run
    from gptjax.web import payload

    command = f"python -m gptjax.report --workdir={workdir}"
    if not payload.is_quick(exp.model):
        terminal.note(f"look inside: {command}")
        return
    try:
        with terminal.doing("looking inside"):
            run = open_run(within)
            known = exp.corpus, exp.splits
            write(run, within, within / PAGE, known=known, most=payload.MOST_AT_END)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        terminal.note(f"{PAGE} could not be written ({why:.200}); {command} tries it again")
        return
    terminal.note(f"look inside: {workdir}/{PAGE}")


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
