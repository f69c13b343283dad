"""What a run shows and writes down while it trains. In reading order:

- ``console``: what a person sees: lines, and one that is redrawn in place
- ``metrics``: ``metrics.jsonl``, ``timing.jsonl``, and JSON files
- ``tensorboard``: event files, where tensorboardX is installed
- ``pictures``: how every picture looks, and how it becomes a file
- ``plots``: loss curves, and embeddings on a plane
- ``param_table``: the table of a model's parameters
"""
