"""The settings of a run. In reading order:

- ``schema``: every setting, its default, meaning and bounds, as dataclasses that check themselves
- ``parse``: nested mappings as a checked ``Config``
- ``files``: what ``--config=gpt:small`` names; a file starts from ``base()``
- ``foreign_names``: what other trainers call the same things
"""

from gptjax.config.parse import ConfigDict, base

__all__ = ["ConfigDict", "base"]
