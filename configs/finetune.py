"""Fine-tuning: what half of Shakespeare's works teach about a play of the other half.

    python -m gptjax.train --config=configs/finetune.py:base      # works 1 to 21 of 42
    python -m gptjax.train --config=configs/finetune.py:play      # from there, Romeo and Juliet
    python -m gptjax.train --config=configs/finetune.py:nothing   # the same from fresh parameters
    python -m gptjax.compare --workdirs=runs/finetune-play,runs/finetune-nothing

run       begins with   learns from               steps   val loss, nats per character
base      nothing       works 1-21, 2.4 million   2,000   1.71 (of its own works)
play      base          the play, 128 thousand      400   1.75 before, 1.57 after
nothing   nothing       the play                  1,200   1.67
lora      base          the play                    400   1.75 before, 1.66 after

Each end of a run that began with another says what it forgot: of works 1-21, play goes from 1.71 to
1.82, and lora, which trains 16,384 numbers beside 821,588 frozen ones, to 1.78. All share the
vocabulary of the complete works, so the losses compare.
"""

from gptjax import config as gptjax_config
from gptjax.errors import UserError

RUNS = ("base", "play", "nothing", "lora")
BASE, PLAY = "1-21", "romeo and juliet"
BANDS = {"base": (1.64, 1.78), "play": (1.53, 1.61), "nothing": (1.62, 1.73), "lora": (1.62, 1.70)}


def get_config(run="play"):
    """Every field of a run; ``run`` is what stands after the colon on the command line."""
    if run not in RUNS:
        raise UserError(f"finetune has no run {run!r}: choose {', '.join(RUNS)}")
    config = gptjax_config.base()
    config.name = f"finetune-{run}"
    config.data.update(name="shakespeare", part=BASE if run == "base" else PLAY)
    config.model.update(kind="gpt", n_layer=4, n_head=4, n_embd=128, block_size=64)
    config.train.update(batch_size=16, eval_iters=20)
    config.optim.update(learning_rate=2e-3, warmup_steps=100, weight_decay=0.1)
    if run == "base":
        config.train.update(steps=2000, eval_every=500)
    elif run == "nothing":
        config.train.update(steps=1200, eval_every=100)
    else:
        # At a rate below the one it was trained with, most of what it knows stays.
        config.train.update(steps=400, eval_every=50, init_from="runs/finetune-base")
        config.optim.update(learning_rate=5e-4, warmup_steps=20)
    if run == "lora":
        config.model.update(lora_rank=8, lora_targets="query,value", lora_alpha=16.0)
        config.optim.learning_rate = 5e-3  # few numbers learn, and those from zero
    config.expected[f"shakespeare:{config.data.part}"] = BANDS[run]
    return config
