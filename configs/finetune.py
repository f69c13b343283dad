"""Fine-tuning: what half of Shakespeare's plays teach about one of the others.

    python -m gptjax.train --config=configs/finetune.py:base      # works 1 to 21 of 42
    python -m gptjax.train --config=configs/finetune.py:play      # Romeo and Juliet, from there
    python -m gptjax.train --config=configs/finetune.py:nothing   # the same, from fresh parameters
    python -m gptjax.train --config=configs/finetune.py:lora      # from there, by LoRA of rank 8
    python -m gptjax.compare --workdirs=runs/finetune-play,runs/finetune-lora,runs/finetune-nothing

run       begins with   learns from              steps   val loss, nats per character
base      nothing       works 1-21, 2.4 M chars   2,000   ?
play      base          one play, 128 k chars       400   ?
nothing   nothing       one play                  1,200   ?
lora      base          one play                    400   ?

All share the vocabulary of the complete works, so their losses compare. A run that begins with
another has its sizes; here they are the same to begin with.
"""

from gptjax import config as gptjax_config
from gptjax.errors import UserError

RUNS = ("base", "play", "nothing", "lora")
BASE, PLAY = "1-21", "romeo and juliet"


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
        # A rate below the one it was trained with: most of it is to stay.
        config.train.update(steps=400, eval_every=50, init_from="runs/finetune-base")
        config.optim.update(learning_rate=5e-4, warmup_steps=20)
    if run == "lora":
        config.model.update(lora_rank=8, lora_targets="query,value", lora_alpha=16.0)
        config.optim.learning_rate = 5e-3  # the few parameters that learn have far to go
    return config
