"""Event files for TensorBoard. The only file that knows tensorboardX; without it nothing happens.

In: values and short texts by tag and step. Out: event files in a folder.
"""

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path

from gptjax.runtime import devices


class TensorBoard:
    """Writes event files; does nothing when tensorboardX is absent (``note`` says so)."""

    def __init__(self, folder: Path, resume_step: int | None):
        """Write to ``folder``; hide what an earlier start wrote after ``resume_step``."""
        self._writer, self.note = None, ""
        if not devices.is_writer():
            return
        try:
            from tensorboardX import SummaryWriter
        except (ImportError, TypeError):  # TypeError: its protobuf code is older than protobuf
            why = "tensorboardX is not installed (pip install tensorboardX)"
            self.note = f"no TensorBoard files: {why}"
            return
        purge = 0 if resume_step is None else resume_step + 1
        # Its thread writes every 5 s: what a killed run loses of the view, metrics.jsonl still has.
        # The suffix keeps a start within the same second from overwriting the file before.
        ways = {"max_queue": 10_000, "flush_secs": 5, "filename_suffix": f".from_{purge}"}
        before = set(threading.enumerate())
        try:
            self._writer = SummaryWriter(str(folder), purge_step=purge, **ways)
        except OSError as error:
            self.note = f"no TensorBoard files: {folder} cannot be written ({error.strerror})"
        self._threads = set(threading.enumerate()) - before
        self._hook = threading.excepthook
        threading.excepthook = self._thread_ended

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
        if self._works():
            with contextlib.suppress(OSError):  # a full disk: the view is lost, not the run
                self._writer.close()
        if threading.excepthook == self._thread_ended:
            threading.excepthook = self._hook

    def _thread_ended(self, args: threading.ExceptHookArgs) -> None:
        if args.thread not in self._threads or not isinstance(args.exc_value, OSError):
            self._hook(args)

    def _works(self) -> bool:
        """Whether the thread that writes still lives: on a full disk it dies, and a call hangs."""
        return self._writer is not None and all(thread.is_alive() for thread in self._threads)
