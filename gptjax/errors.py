"""The one exception a user's mistake raises.

A door or a config's ``__post_init__`` raises it before anything is compiled; a verb prints its one
line on stderr and exits with code 2 (see ``cli.py``).
"""


class UserError(ValueError):
    """A mistake of the user's: one line that says what is wrong, the numbers and the way out."""
