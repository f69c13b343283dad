"""Values that explain a trained model: what is inside it, and what it makes of a text.

In reading order:

- ``capture``: one forward pass that keeps what is inside
- ``text``: each token's loss, and what had been expected
- ``lens``: what each head looks at, and the guess after every block
- ``tables``: what its embeddings know, and what it expects after single tokens
- ``lessons``: what three lessons are computed from
- ``diagrams``: the boxes of the notes' diagrams, their shapes and parameters
- ``places``: where to look into a model, and to have gradients of what is there
- ``layers``: activations, gradients and updates on one batch
- ``figures``: matplotlib figures of these
"""
