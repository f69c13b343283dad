"""What a process needs of the machine. In reading order:

- ``devices``: what the machine has, what a run records of it, where its caches lie
- ``fast_paths``: what "auto" means on a device
- ``mesh_rules``: where arrays live on several devices: batches, parameters, optimizer state
- ``compilation_cache``: compiled programs kept on disk
- ``run_lock``: one training per work folder
- ``object_store``: what lies below a URL, and one training there, too
- ``pace``: how much of a long work to do at a time
- ``preemption``: SIGINT, SIGTERM and SIGHUP end a run in good order
- ``atomic_files``: files written whole or not at all, and read without harm
"""
