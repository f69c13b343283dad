"""The settings of a run: every field, its default, meaning and bounds.

`base()` is what a file in ``configs/`` starts from.
"""


def __getattr__(name):
    if name not in ("base", "ConfigDict"):
        raise AttributeError(name)
    from gptjax.config import parse

    return getattr(parse, name)
