"""Numbers as compact JSON: base64 of little-endian integers or floats, read by js/page.js.

In: a numpy array. Out: {"kind", "shape", "base64"}.
"""

import base64
from typing import Any

import numpy as np

UNIT_STEPS = 65535  # a number of 0 to 1 is sent as so many parts: 8e-6 from the truth at most


def pack(array: Any, kind: str) -> dict[str, Any]:
    """An array as JSON: "unit" (0 to 1, two bytes each), "float" (float32) or "int" (unsigned).

    Raises:
      ValueError: a value that the kind cannot hold.
    """
    array = np.asarray(array)
    if kind == "unit":
        # Not a number is no share of anything either.
        if array.size and not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
            raise ValueError(f"a unit is 0 to 1, and this goes {array.min()} to {array.max()}")
        sent = np.rint(np.clip(array, 0, 1) * UNIT_STEPS).astype("<u2")
    elif kind == "int":
        if array.size and not (array.min() >= 0 and array.max() < 2**32):
            raise ValueError(f"an int is 0 to 2**32 - 1: {array.min()} to {array.max()}")
        sent = array.astype("<u2" if not array.size or array.max() < 2**16 else "<u4")
    elif kind == "float":
        sent = array.astype("<f4")
    else:
        raise ValueError(f"unknown kind {kind!r}: unit, int or float")
    named = f"u{8 * sent.itemsize}" if kind == "int" else kind
    text = base64.b64encode(np.ascontiguousarray(sent)).decode()
    return {"kind": named, "shape": list(array.shape), "base64": text}
