"""One page that shows what a model does. In reading order:

- ``context``: what a page is made from: the run's folder, its corpus, the text it shows
- ``arrays``: numbers as compact JSON
- ``payload``: all that a page shows, as JSON; ``*_data``: the part of each panel
- ``run_data``: what was trained, how it went, the samples, the diagrams
- ``text_data``: each token's loss, alternatives, attention, and the lens
- ``embeddings_data``: vectors on a plane, places, pairs, windows
- ``layers_data``: activations, gradients and updates per layer
- ``lessons_data``: what the three lessons need
- ``page``: one HTML file of it, with the styles and scripts of ``assets/``
"""
