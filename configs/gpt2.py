"""GPT-2's four sizes, trained from the start as GPT-2 was: 524,288 tokens a step.

    python -m gptjax.train --config=configs/gpt2.py:124m --config.data.path=tokens/big
    python -m gptjax.aot   --config=configs/gpt2.py:1558m --vocab_size=50257 --target=tpu:v5e:4x4

size    n_layer/n_head/n_embd   parameters
124m        12/12/768            124,439,808
350m        24/16/1024           354,823,168
774m        36/20/1280           774,030,080
1558m       48/25/1600         1,557,611,200

Parameters with GPT-2's vocabulary of 50,257 tokens, and they are GPT-2's: beside the notes' GPT it
has biases of queries, keys and values, the tanh form of GELU, and a head that is the token table.
The tokenizers ``byte`` and ``char`` have smaller vocabularies.

A batch is 512 rows of 1,024 tokens on any number of devices, done in ``train.accumulate`` parts;
``python -m gptjax.aot`` says which number of parts fits a device, launch/README.md what fits where.
"""

from gptjax import config as gptjax_config
from gptjax.errors import UserError

# n_layer, n_head, n_embd; the highest learning rate, of GPT-3's table 2.1 for models so large.
SIZES = {
    "124m": (12, 12, 768, 6e-4),
    "350m": (24, 16, 1024, 3e-4),
    "774m": (36, 20, 1280, 2.5e-4),
    "1558m": (48, 25, 1600, 2e-4),
}


def get_config(size="124m"):
    """Every field of the run of a size."""
    if size not in SIZES:
        raise UserError(f"gpt2 has no size {size!r}: choose {', '.join(SIZES)}")
    n_layer, n_head, n_embd, learning_rate = SIZES[size]
    config = gptjax_config.base()
    config.name = f"gpt2-{size}"
    config.tokenizer.kind = "byte"
    config.model.update(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=1024)
    config.model.update(
        activation="gelu_tanh", qkv_bias=True, tie_lm_head=True, scale_residual=True
    )
    config.model.update(compute_dtype="bfloat16", attention="blocks", remat=True)
    config.model.update(scan_layers=True, pad_vocab=128)
    # 19,073 steps are 10 billion tokens. A chunk's batches lie on the device, 6 MB a step.
    config.train.update(steps=19_073, batch_size=512, accumulate=32, chunk_steps=10)
    config.train.update(eval_every=1000, eval_iters=4)
    config.optim.update(learning_rate=learning_rate, warmup_steps=700, beta2=0.95)
    config.optim.update(weight_decay=0.1)
    return config
