"""The parameters of a small GPT as shapes, for tests of what is shown of them."""

import jax
import numpy as np

BLOCK = {
    "ffwd": {"fc": {"bias": (24,), "kernel": (6, 24)}, "proj": {"bias": (6,), "kernel": (24, 6)}},
    "ln1": {"bias": (6,), "scale": (6,)},
    "ln2": {"bias": (6,), "scale": (6,)},
    "sa": {
        "heads": {name: {"kernel": (2, 6, 3)} for name in ("key", "query", "value")},
        "proj": {"bias": (6,), "kernel": (6, 6)},
    },
}
TOTAL = 11 * 6 + 5 * 6 + 12 + (6 * 11 + 11)  # without blocks
PER_BLOCK = 24 + 144 + 6 + 144 + 4 * 6 + 3 * 36 + 6 + 36


def gpt(blocks):
    """The parameters of a GPT, alphabetical as jax leaves them."""
    tree = {f"blocks_{i}": BLOCK for i in range(blocks)} | {
        "lm_head": {"bias": (11,), "kernel": (6, 11)},
        "ln_f": {"bias": (6,), "scale": (6,)},
        "position_embedding_table": {"embedding": (5, 6)},
        "token_embedding_table": {"embedding": (11, 6)},
    }
    tree = dict(sorted(tree.items()))
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )
