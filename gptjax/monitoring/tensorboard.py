"""Event files for TensorBoard. The only file that knows tensorboardX; without it nothing happens.

In: values and short texts by tag and step. Out: event files in a folder.
"""

import contextlib
import functools
import threading
from collections.abc import Mapping
from pathlib import Path

from gptjax.processes import cluster


class TensorBoard:
    """Writes event files where tensorboardX is there; ``note`` says where, or why none are."""

    def __init__(self, folder: Path, resume_step: int | None, wanted: bool = True):
        """Write to ``folder``; hide what an earlier start wrote after ``resume_step``."""
        self._open, self._writer, self._threads, self.note = None, None, set(), ""
        if not (wanted and cluster.is_first()):
            return
        try:
            from tensorboardX import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
        except (ImportError, TypeError):  # TypeError: its protobuf code is older than protobuf
            why = "tensorboardX is not installed (pip install tensorboardX)"
            self.note = f"no TensorBoard files: {why}"
            return
        except OSError as error:
            self.note = f"no TensorBoard files: {folder} cannot be written ({error.strerror})"
            return
        self.note = f"TensorBoard files: {folder} (train.tensorboard=false leaves them out)"
        purge = 0 if resume_step is None else resume_step + 1
        # Its thread writes every 5 s: what a killed run loses of the view, metrics.jsonl still has.
        # The suffix keeps a start within the same second from overwriting the file before.
        ways = {"max_queue": 10_000, "flush_secs": 5, "filename_suffix": f".from_{purge}"}
        self._open = functools.partial(SummaryWriter, str(folder), purge_step=purge, **ways)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values by tag."""
        if self._works():
            for tag, value in values.items():
                self._writer.add_scalar(tag, float(value), step)

    def text(self, step: int, tag: str, text: str) -> None:
        """Record a text, shown as it is."""
        if self._works():
            self._writer.add_text(tag, "    " + text.replace("\n", "\n    "), step)  # Markdown code

    def close(self) -> None:
        """Flush and close the files."""
        well = self._writer is None
        if self._writer is not None and self._works():
            with contextlib.suppress(OSError):  # a full disk: the view is lost, not the run
                self._writer.close()
                well = True
        self._open = None
        if not well:  # tensorboardX would try once more as Python ends, and complain
            with contextlib.suppress(AttributeError):
                self._writer.file_writer.event_writer.close = lambda: None
        elif threading.excepthook == self._thread_ended:
            threading.excepthook = self._hook

    def _thread_ended(self, args: threading.ExceptHookArgs) -> None:
        if args.thread not in self._threads or not isinstance(args.exc_value, (OSError, EOFError)):
            self._hook(args)

    def _works(self) -> bool:
        """Whether there is a file, and a thread that writes; the first to ask has them made.

        On a full disk the thread dies, and a call would hang.
        """
        if self._writer is None and self._open:  # a finished run started again writes nothing
            before, self._hook = set(threading.enumerate()), threading.excepthook
            threading.excepthook = self._thread_ended
            with contextlib.suppress(OSError):
                self._writer = self._open()
            self._threads, self._open = set(threading.enumerate()) - before, None
        return self._writer is not None and all(thread.is_alive() for thread in self._threads)
