"""One page that shows what a model does: curves, each token's loss, attention, vectors, lessons.

    python -m gptjax.report --workdir=runs/gpt-small
    python -m gptjax.report --workdir=runs/gpt-small --text="To be, or not to be" --out=page.html

In: a work folder. Out: one HTML file that needs no server and no network. Where several checkpoints
were kept (checkpoint.keep_every), a slider moves what it shows through the training.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax.cli import main as cli
from gptjax.data.text_file import read_text
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.processes import cluster
from gptjax.runtime import devices
from gptjax.runtime.object_store import is_remote

if TYPE_CHECKING:  # JAX takes seconds to import: a mistake is told before
    from gptjax.checkpoints.run import Run
    from gptjax.training.experiment import Experiment

PAGE = "report.html"
SPARE_CORES = 4  # so many, and one more thread is not felt by the steps


def write(run: Run, workdir: Path, out: Path, text: str = "", busy: Any = None) -> None:
    """Write the page of a run in a folder."""
    from gptjax.web import context, payload

    of_page = context.of_run(run, workdir, text)
    steps = payload.shown_steps(workdir, run.step)
    _write(payload.page_data(run, of_page, steps, busy), run, out)


def _write(data: Mapping[str, Any], run: Run, out: Path) -> None:
    from gptjax.runtime.atomic_files import write_whole
    from gptjax.web import page

    write_whole(out, page.html_page(data, run.config.name).encode())


@dataclasses.dataclass(eq=False)
class OfTraining:
    """The page of a run while it is trained: a ``with`` around the steps, and ``write`` at the end.

    Where the host has cores to spare, a thread looks at the first checkpoint meanwhile. That
    compiles all that the page needs, so that at the end a second is enough; on two cores, both at
    work, it would cost the steps twice of what it saves. ``within``: the run's folder, of the URL
    ``workdir`` a copy.
    """

    exp: Experiment
    within: Path
    workdir: str | Path
    terminal: Terminal

    def __enter__(self) -> OfTraining:
        from concurrent.futures import ThreadPoolExecutor

        from gptjax.web import payload

        self._context: Any = None
        self._made: dict[int, dict[str, Any]] = {}
        self._ends = threading.Event()
        self._thread = ThreadPoolExecutor(1, "look inside")
        # Of several processes none does anything that the others do not wait for.
        is_quick = payload.is_quick(self.exp.model, self.exp.evaluator.call_flops)
        self._is_quick = cluster.count() == 1 and is_quick
        if self._is_quick and devices.cpu_count() >= SPARE_CORES:
            self._thread.submit(self._look_ahead)
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.shutdown()

    def write(self) -> None:
        """Write the page of the finished run, if that takes no longer than a reader waits.

        All of it is saved: what goes wrong here is told and changes nothing.
        """
        command = f"python -m gptjax.report --workdir={self.workdir}"
        if not self._is_quick:
            self.terminal.note(f"look inside: {command}")
            return
        try:
            with self.terminal.doing("looking inside"):
                self._ends.set()
                self._thread.shutdown()
                self._write()
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            self.terminal.note(
                f"{PAGE} could not be written ({why:.200}); {command} tries it again"
            )
            return
        self.terminal.note(f"look inside: {self.workdir}/{PAGE}")

    def _look_ahead(self) -> None:
        """Look at the first checkpoint as soon as the first steps are done."""
        from gptjax.checkpoints import directory
        from gptjax.checkpoints.run import TIMING, open_run
        from gptjax.monitoring import metrics
        from gptjax.web import payload

        # While they are compiled, nothing else should be.
        while not metrics.read(self.within / TIMING):
            if self._ends.wait(0.2):
                return
        try:
            run = open_run(self.within, min(directory.available(self.within)))
            self._context = self._of(run)
            made = {}
            for name, make in payload.OF_CHECKPOINT.items():
                if self._ends.is_set():
                    return
                made[name] = make(run, self._context)
            self._made[run.step] = {"step": run.step, "val_nats": run.val_nats, **made}
        except Exception:  # whatever it is, it comes again at the end, where it is told
            self._context = None

    def _of(self, run: Run) -> Any:
        from gptjax.web import context, payload

        of_run = context.of_run(run, self.within, known=(self.exp.corpus, self.exp.splits))
        return dataclasses.replace(of_run, n_checkpoints=payload.MOST_AT_END)

    def _write(self) -> None:
        from gptjax.checkpoints.run import open_run
        from gptjax.web import payload

        run = open_run(self.within)
        of_page = self._of(run)
        if self._context is not None:  # what panels keep serves them again
            of_page = dataclasses.replace(of_page, kept=self._context.kept)
        steps: set[int] = set()
        if self._made:  # else each would take a second of somebody who waits for it
            # The first one may be gone from the folder: here is what was seen of it.
            steps |= {*payload.shown_steps(self.within, run.step, payload.MOST_AT_END), *self._made}
        _write(payload.page_data(run, of_page, steps, made=self._made), run, self.within / PAGE)


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
