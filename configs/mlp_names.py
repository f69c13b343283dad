"""The MLP of the slides on names: three characters in, the next one out (makemore part 2).

    python -m gptjax.train --config=configs/mlp_names.py
    python -m gptjax.train --config=configs/mlp_names.py --config.data.name=indian_names \\
        --config.model.n_embd=2      # the plane of the slides
    python -m gptjax.train --config=configs/mlp_names.py:makemore

3 x 10 -> 200 tanh -> 27: 11,897 parameters. ``makemore`` is part 2 as published: its own split, in
which a name may stand twice, and 200,000 steps of SGD on 32 single letters, the second half at a
tenth of the rate. Its loss there is 2.17; a better start of the weights (part 3) made it 2.10.
"""

from gptjax import config as gptjax_config
from gptjax.errors import UserError


def get_config(recipe="adamw"):
    """Every field of the run; ``recipe`` is what stands after the colon on the command line."""
    if recipe not in ("adamw", "makemore"):
        raise UserError(f"mlp_names has no recipe {recipe!r}: choose adamw or makemore")
    config = gptjax_config.base()
    config.name = "mlp-names"
    config.data.name = "names"
    config.model.update(kind="mlp", block_size=3, n_embd=10, n_layer=1, n_hidden=200)
    config.train.update(steps=10_000, batch_size=64, eval_every=1_000, eval_iters=100)
    config.optim.update(learning_rate=1e-2, final_fraction=0.01, weight_decay=0.01)
    config.sample.update(max_new_tokens=80, temperature=1.0)
    config.expected.names = (2.05, 2.20)
    if recipe == "makemore":
        config.name, config.seed, config.data.split = "mlp-makemore", 42, "makemore"
        config.train.update(steps=200_000, batch_size=32, window=1, eval_every=20_000)
        config.train.update(eval_iters=200, chunk_steps=1_000)
        config.optim.update(name="sgd", learning_rate=0.1, schedule="step", final_fraction=0.1)
        config.optim.clip_norm = 0.0
        config.expected.names = (2.07, 2.20)
    return config
