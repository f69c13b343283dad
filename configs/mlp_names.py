"""The MLP of the slides on names: three characters in, the next one out (makemore part 2).

    python -m gptjax.train --config=configs/mlp_names.py
    python -m gptjax.train --config=configs/mlp_names.py --config.data.name=indian_names \\
        --config.model.n_embd=2      # the plane of the slides

3 x 10 -> 200 tanh -> 27: 11,897 parameters.
"""

from gptjax import config as gptjax_config


def get_config():
    """Every field of the run."""
    config = gptjax_config.base()
    config.name = "mlp-names"
    config.data.name = "names"
    config.model.update(kind="mlp", block_size=3, n_embd=10, n_layer=1, n_hidden=200)
    config.train.update(steps=10_000, batch_size=64, eval_every=1_000, eval_iters=100)
    config.optim.update(learning_rate=1e-2, final_fraction=0.01, weight_decay=0.01)
    config.sample.update(max_new_tokens=80, temperature=1.0)
    config.expected.names = (2.05, 2.20)
    return config
