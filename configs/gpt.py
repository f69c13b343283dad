"""The GPT of the notes (pages 9 and 10) on Shakespeare.

    python -m gptjax.train --config=configs/gpt.py            # the size this machine can train
    python -m gptjax.train --config=configs/gpt.py:small      # 4/4/128, block 64
    python -m gptjax.train --config=configs/gpt.py:lecture    # 6/6/384, block 256: the notes' GPT

size      parameters   made for        takes             val loss, nats per character
small        0.82 M    2 CPU cores     about 3 minutes   1.58-1.72 (Shakespeare's works)
lecture     10.8 M     a GPU, a TPU    minutes           1.40-1.60 (tinyshakespeare)
"""

from gptjax import config as gptjax_config
from gptjax.errors import UserError
from gptjax.runtime import devices

SIZES = ("small", "lecture")


def get_config(size=None):
    """Every field of the run; ``size`` is what stands after the colon on the command line."""
    config = gptjax_config.base()
    if size is None:
        platform, why = devices.guess_platform()
        size = "small" if platform == "cpu" else "lecture"
        config.why = f"{size}: {why}"
    elif size in SIZES:
        config.why = f"{size}: as named on the command line"
    else:
        raise UserError(f"gpt has no size {size!r}: choose {' or '.join(SIZES)}")
    config.name = f"gpt-{size}"
    config.data.name = "shakespeare"
    config.model.kind = "gpt"
    if size == "small":
        config.model.update(n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0)
        config.train.update(steps=3000, batch_size=16, eval_every=500, eval_iters=20)
        config.optim.update(learning_rate=2e-3, warmup_steps=100, weight_decay=0.1)
        config.expected.update(shakespeare=(1.58, 1.72), tinyshakespeare=(1.65, 1.85))
    else:
        config.model.update(n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2)
        config.train.update(steps=5000, batch_size=64, eval_every=500, eval_iters=200)
        # The lecture's rate; the schedule's constant part is its constant rate.
        config.optim.update(learning_rate=3e-4, schedule="constant", beta2=0.999)
        config.expected.tinyshakespeare = (1.40, 1.60)
    return config
