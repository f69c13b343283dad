"""A tokenizer in Hugging Face's files: ``tokenizer.json`` and ``tokenizer_config.json``."""

from pathlib import Path

from gptjax.data.tokenizers import Tokenizer


def write(folder: Path, tok: Tokenizer, block_size: int) -> None:
    """Write a tokenizer that ``transformers.AutoTokenizer`` loads; ``block_size``: its tokens."""
    raise NotImplementedError


def read(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: ``tokenizer.json``, else ``vocab.json`` and ``merges.txt``."""
    raise NotImplementedError
