"""What "auto" comes to on each kind of device, and that nothing said is changed."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from gptjax.config.schema import ModelConfig
from gptjax.errors import UserError
from gptjax.runtime import devices, fast_paths

HOW = ("compute_dtype", "storage_dtype", "attention")
CPU = SimpleNamespace(platform="cpu")
TPU = SimpleNamespace(platform="tpu")
GPU = {c: SimpleNamespace(platform="gpu", compute_capability=c) for c in ("7.5", "8.0", "10.0")}
AMD = SimpleNamespace(platform="gpu", compute_capability="gfx942")


@pytest.fixture
def flags(monkeypatch):
    def set_to(names):
        monkeypatch.setattr(devices, "cpu_name", lambda flags=False: f"A CPU {names}")

    return set_to


@pytest.mark.parametrize(
    "device, known, expected",
    [
        (CPU, "avx512f avx512_bf16", ("bfloat16", "float32", "blocks")),
        (CPU, "amx_bf16", ("bfloat16", "float32", "blocks")),
        (CPU, "avx512f", ("float32", "float32", "blocks")),
        (TPU, "", ("bfloat16", "bfloat16", "blocks")),
        (GPU["7.5"], "", ("float32", "float32", "blocks")),
        (GPU["8.0"], "", ("bfloat16", "bfloat16", "fused")),
        (GPU["10.0"], "", ("bfloat16", "bfloat16", "fused")),
        (AMD, "", ("float32", "float32", "blocks")),
    ],
)
def test_each_device_gets_what_is_quickest_on_it(device, known, expected, flags):
    flags(known)
    found = fast_paths.resolve(ModelConfig(), device)
    assert tuple(getattr(found, name) for name in HOW) == expected


def test_a_small_model_stays_in_float32_on_a_cpu_and_dropout_needs_blocks(flags):
    flags("avx512_bf16")
    assert fast_paths.resolve(ModelConfig(n_embd=32), CPU).compute_dtype == "float32"
    assert fast_paths.resolve(ModelConfig(dropout=0.1), GPU["8.0"]).attention == "blocks"


def test_an_old_jax_stays_in_float32_on_a_cpu(flags, monkeypatch):
    flags("avx512_bf16")
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 9))
    assert fast_paths.resolve(ModelConfig(), CPU).compute_dtype == "float32"


@pytest.mark.parametrize("attention", ["plain", "blocks", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_config_says_is_kept(dtype, attention):
    said = ModelConfig(compute_dtype=dtype, storage_dtype=dtype, attention=attention)
    assert fast_paths.resolve(said) == said


def test_other_models_have_nothing_to_choose():
    table = ModelConfig(kind="bigram")
    assert fast_paths.resolve(table) == table and fast_paths.line(table) == ""
    assert "attention" in fast_paths.line(fast_paths.resolve(ModelConfig()))


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"attention": "fused", "dropout": 0.1}, "model.dropout=0.1"),
        ({"attention": "plain", "remat": True}, "needs model.attention=blocks or fused"),
        ({"kind": "mlp", "compute_dtype": "bfloat16"}, "is for model.kind='gpt'"),
        ({"kind": "bigram", "scan_layers": True}, "is for model.kind='gpt'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_way_out(changes, what):
    with pytest.raises(UserError, match=what.replace(".", r"\.")):
        dataclasses.replace(ModelConfig(), **changes)
