"""Items as tokens that tell where they stand, for the tests of rows and batches."""

import numpy as np

END = 0


def items_to_tokens(items):
    """Items of the given lengths, each after an end; no two tokens but the ends are the same."""
    tokens, next_token = [END], 1
    for length in items:
        tokens += [*range(next_token, next_token + length), END]
        next_token += length
    return np.array(tokens, np.int32)
