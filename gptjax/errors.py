"""The one exception a user's mistake raises, and the text that a terminal may be shown.

A door or a config's ``__post_init__`` raises it before anything is compiled; a verb prints its one
line on stderr and exits with code 2 (see ``cli.py``).
"""


class UserError(ValueError):
    """A mistake of the user's: one line that says what is wrong, the numbers and the way out."""


def harmless(text: str) -> str:
    """Escape what could move a cursor or turn the writing round; keep joiners and wide spaces."""
    kept = "\n\xa0\u3000\u200c\u200d"
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text.expandtabs(4))
