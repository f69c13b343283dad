"""How fast it is, beside what others use: ``python -m gptjax.bench``. In reading order:

- ``__main__``: the command, its tables and its JSON
- ``turns``: contenders that take turns
- ``generate``: how fast text is made
- ``train``: how fast a training step is, and what it costs as sizes grow
- ``startup``: how long whole processes take to begin
- ``peaks``: the most arithmetic that a device can do
- ``peers``: text made by PyTorch and transformers
- ``twin``: the same models and training in PyTorch
"""
