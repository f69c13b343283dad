"""The notes' GPT made quick: subclasses with its parameters, equal to it. In reading order:

- ``gpt_fast``: the same GPT, with fewer passes over memory
- ``block_attention``: attention without the (T, T) square
- ``gpt_cached``: the same GPT one piece at a time, for decoding
"""
