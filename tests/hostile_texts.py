"""Texts on which two tokenizers part if they can: all of Unicode, white space, half words."""

import random

PIECES = ["don't", "we’ll", "<unk>", "<|endoftext|>", "<|endoftext", "[UNK]", "</s>", "Ġ", "Ċ"]
PIECES += ["été", "e\u0301", "\u0301", "\u200d", "\ufeff", "\ufffd", "\0", "\x7f", "2²", "٣", "ﬁ"]
PIECES += ["नमस्ते", "東京", "👩‍👩‍👧", "🇮🇳", "\U0010ffff", "'s", "''", "’", "_x_", "##", "# #", "\\n"]
SPACES = [" ", "  ", "   \n", "\r\n", "\r", "\n\n", "\t", "\x0b", "\x0c", "\x1c", "\x85", "\xa0"]
SPACES += ["\u2028", "\u2029", "\u3000", " \u200b"]
WORDS = ["the", "world", "!", ".", ",", " ,", "?", "12", "O"]


def texts(n: int, seed: int) -> list[str]:
    """``n`` texts of up to 8 pieces, the empty one among them; no half characters (surrogates)."""
    rng = random.Random(seed)
    return ["".join(_piece(rng) for _ in range(rng.randrange(9))) for _ in range(n)]


def _piece(rng: random.Random) -> str:
    kind, length = rng.randrange(7), rng.randrange(1, 5)
    if kind == 0:  # surrogates, 0xd800 to 0xdfff, are jumped over
        codes = [rng.randrange(0x10F800) for _ in range(length)]
        return "".join(chr(code if code < 0xD800 else code + 0x800) for code in codes)
    if kind == 1:
        return "".join(chr(rng.randrange(128)) for _ in range(length))
    if kind == 2:
        return rng.choice(SPACES) * rng.randrange(1, 3)
    if kind == 3:
        return rng.choice(PIECES)
    if kind == 4:
        return " " + rng.choice(WORDS)
    return "".join(rng.choice("abc ABC'’_0-\n ") for _ in range(length))
