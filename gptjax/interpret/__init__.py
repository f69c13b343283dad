"""Values that explain a trained model: what is inside it, and what it makes of a text.

In reading order:

- ``capture``: one forward pass that keeps what is inside
- ``tables``: what its embeddings know, and what it expects after single tokens
- ``layers``: activations, gradients and updates on one batch
"""
