"""Trained models served over HTTP, on this machine alone. In reading order:

- ``worker``: one thread that does all that models do, many jobs in turns
- ``models``: which runs are served, and opening them
- ``guard``: what is refused before anything is done: strange hosts, too many bytes
- ``app``: the addresses, and what is answered there
- ``completion_request``: what may be asked of OpenAI's ``/v1/completions``
- ``completions``: its answers, whole or piece by piece
- ``scoring``: how likely each token of a text was, and what else might have come
- ``next_token``: the distribution after a text, and what is copied of it
- ``playground``: what the page asks while somebody types

Nothing here imports JAX before a model is opened: the server listens at once.
"""
