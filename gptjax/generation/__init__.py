"""From a prompt to a text. In reading order:

- ``generate``: the notes' ``generate``, and prompts to texts
- ``sampling``: what happens to logits before the draw
- ``stopping``: where a text ends, and which part of it is sure
- ``decode``: the compiled loop with a cache: the same texts, sooner
"""
