"""From a corpus to batches. In reading order:

- ``batching``: batch k as a function of (seed, k): the notes' ``get_batch``
- ``dataset``: an encoded split cut into rows: a stream, items, or skip-gram pairs
- ``tokenizers``: text to ids and back, by character, word or byte
- ``splits``: a text cut into train, val and test
- ``token_files``: a text larger than memory as files of its tokens, written and opened
- ``corpora``: known corpora by name, your own text by path
- ``text_file``: UTF-8 files
- ``remote``: texts and token files on an object store, copied once
- ``download``: the bytes of a known corpus, from a pip package or a URL
"""
