"""What lies elsewhere, brought here once. In reading order:

- ``remote``: texts and token files on an object store
- ``download``: the bytes of a known corpus, from a pip package or a URL
"""
