"""What a run would be on devices that are not here: ``python -m gptjax.aot``. In reading order:

- ``__main__``: the command, its page, its table and its JSON
- ``targets``: the devices, by a name such as tpu:v5e:2x2
- ``programs``: training, evaluation and decoding, compiled for them
- ``hlo``: what a compiled program moves
- ``roofline``: how fast it can be at best, and what a changed setting would give
- ``report``: all that is known of a config on a target, as figures and as lines
"""
