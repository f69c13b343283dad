"""The peers: refused in one line where PyTorch is missing, and as long as asked where it is not."""

import importlib.util
import subprocess
import sys

import pytest

from gptjax.bench import __main__ as bench
from gptjax.bench import generate, peers
from gptjax.cli import main as cli
from gptjax.errors import UserError

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
SIZES = (13, 8, 12, 3, 2)  # vocab_size, block_size, n_embd, n_head, n_layer


@pytest.fixture
def no_torch(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )


def test_peers_without_pytorch_are_a_line_that_says_what_to_install(no_torch, capsys, monkeypatch):
    with pytest.raises(UserError, match="pip install torch"):
        peers.require()
    monkeypatch.setattr(generate, "measure", None)  # it is said before anything is measured
    argv = ["bench", "generate", "--peers", "--nocompilation_cache"]
    assert cli.call(bench.main, argv, flags=bench.FLAGS, words="what") == 2
    out, err = capsys.readouterr()
    assert out == "" and "pip install torch" in err and err.count("\n") == 1


def test_nothing_of_pytorch_is_imported_before_it_is_asked_for():
    code = "import sys; from gptjax.bench import generate, peers, startup, train"
    ask = f"{code}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == 0


@needs_torch
def test_peers_write_as_many_tokens_as_asked():
    found = peers.peers(SIZES, batch_size=2, tokens=7)
    assert all(call() > 0 for call in found.values()) and "torch" in peers.versions()
    assert len(peers.peers(SIZES, batch_size=2, tokens=8)) == 1


@needs_torch
def test_a_text_of_another_length_is_an_error(monkeypatch):
    monkeypatch.setattr(peers, "_uncached", lambda *sizes: lambda ids, tokens: ids)
    call = peers.peers(SIZES, batch_size=2, tokens=8).popitem()[1]
    with pytest.raises(RuntimeError, match="1 tokens came, not 9"):
        call()


@needs_torch
def test_what_comes_next_is_drawn_after_the_last_block_size_tokens():
    import torch

    write = peers._uncached(*SIZES)
    long = torch.randint(0, SIZES[0], (2, 20))
    other = long.clone()
    other[:, : 20 - SIZES[1]] = 0  # the window does not reach there
    with torch.inference_mode():
        texts = []
        for ids in (long, other):
            torch.manual_seed(3)
            texts.append(write(ids, 1))
    assert texts[0].shape == (2, 21) and torch.equal(texts[0][:, :20], long)
    assert torch.equal(texts[0][:, 20], texts[1][:, 20])
