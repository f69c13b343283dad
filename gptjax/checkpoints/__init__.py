"""A run's checkpoints, complete or not there. In reading order:

- ``run``: open the model that was trained in a folder
- ``start``: with which run another begins
- ``mirror``: a run on an object store, and its copy in a folder
- ``store``: write and read checkpoints; the only file that knows orbax
- ``directory``: which checkpoints a folder holds, and which may go
- ``manifest``: what every file was when it was written
- ``pytree``: a tree of arrays as a table of paths
"""
