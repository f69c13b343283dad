"""Runs side by side: ``python -m gptjax.compare``. In reading order:

- ``__main__``: the command, and the ladder that it may train first
- ``measure``: the table and the picture of trained runs
"""

RUNG_BEFORE = "the rung before"  # what a gain of the ladder is measured against
