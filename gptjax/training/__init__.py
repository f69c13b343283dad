"""Training. In reading order:

- ``train_step``: the notes' loop body and ``estimate_loss``
- ``optimizer``: AdamW, what it decays, and the learning rate's schedule
- ``tuning``: which parameters learn: all, named ones, or LoRA's
- ``scan``: many steps in one compiled loop; parts of a batch; bad steps
- ``experiment``: what a config stands for, built
- ``trainer``: the loop around the steps: evaluations, saves, signals
- ``resume``: continuing a run where its folder has it
- ``nonfinite``: numbers that are not finite, and a step looked at again
- ``summary``: the first and the last page of a run, and its verdict
"""
