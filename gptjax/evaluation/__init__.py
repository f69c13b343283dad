"""What a trained model knows, measured. In reading order:

- ``loss_eval``: the one forward pass for all who need losses
- ``count_models``: what counting gives, the closed form of a table
- ``baselines``: what a loss is compared with
- ``run_table``: runs side by side: how sure a loss is, what each gained
- ``probe``: what comes next, who is near
- ``embeddings``: cosines, analogies, planes
- ``memorization``: what a model made that stands in its corpus
- ``flops``: how much arithmetic a model needs
"""
