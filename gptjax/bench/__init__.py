"""How fast it is, beside what others use: ``python -m gptjax.bench``. In reading order:

- ``__main__``: the command, its table and its JSON
- ``generate``: how fast text is made
- ``peers``: the same work in PyTorch
"""
