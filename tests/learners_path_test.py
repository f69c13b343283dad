"""The five short files in which a reader of the lecture's gpt.py finds its names."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gptjax"
PATH = ["data/batching.py", "models/gpt.py", "models/loss.py", "training/train_step.py"]
PATH += ["generation/generate.py"]
MOST_LINES = 1000

# A function or class of the lecture -> the arguments, or fields, that it has there.
DEFINED = {
    "get_batch": ["split"],
    "estimate_loss": [],
    "Head": ["head_size"],
    "MultiHeadAttention": ["num_heads", "head_size"],
    "FeedForward": ["n_embd"],
    "Block": ["n_embd", "n_head"],
    "GPTLanguageModel": [],
    "generate": ["idx", "max_new_tokens"],
}
ATTRIBUTES = ["token_embedding_table", "position_embedding_table", "blocks", "ln_f", "lm_head"]
ATTRIBUTES += ["key", "query", "value", "tril", "heads", "proj", "sa", "ffwd", "ln1", "ln2"]
WORDS = ["batch_size", "block_size", "eval_iters", "n_embd", "n_head", "n_layer", "dropout"]
WORDS += ["learning_rate", "logits", "loss", "wei", "idx_cond", "idx_next", "cross_entropy"]

SOURCES = {name: (PACKAGE / name).read_text(encoding="utf-8") for name in PATH}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def test_the_five_files_are_short():
    lines = {name: len(source.splitlines()) for name, source in SOURCES.items()}
    assert sum(lines.values()) <= MOST_LINES, lines


@pytest.mark.parametrize("name", DEFINED)
def test_a_name_of_the_lecture_is_defined_once_with_its_arguments(name):
    found = [
        node
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    ]
    assert len(found) == 1
    if isinstance(found[0], ast.ClassDef):
        given = [n.target.id for n in found[0].body if isinstance(n, ast.AnnAssign)]
    else:
        given = [argument.arg for argument in found[0].args.args]
    assert [argument for argument in given if argument in DEFINED[name]] == DEFINED[name]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_part_of_the_lectures_model_is_assigned_under_its_name(name):
    assigned = {
        target.attr
        for node in ast.walk(TREES["models/gpt.py"])
        if isinstance(node, ast.Assign)
        for targets in node.targets
        for target in (targets.elts if isinstance(targets, ast.Tuple) else [targets])
        if isinstance(target, ast.Attribute)
    }
    assert name in assigned


@pytest.mark.parametrize("word", WORDS)
def test_a_variable_of_the_lecture_is_found_by_search(word):
    assert any(word in source for source in SOURCES.values())


def test_a_head_is_as_short_as_the_lectures():
    (head,) = [n for n in TREES["models/gpt.py"].body if getattr(n, "name", "") == "Head"]
    (call,) = [n for n in head.body if getattr(n, "name", "") == "__call__"]
    statements = [n for n in ast.walk(call) if isinstance(n, ast.stmt) and n is not call]
    assert not any(isinstance(n, (ast.If, ast.For, ast.While)) for n in statements), "one path"
    assert len(statements) <= 12 + 1  # and its docstring
