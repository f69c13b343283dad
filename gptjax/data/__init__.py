"""From a corpus to batches. In reading order:

- ``batching``: batch k as a function of (seed, k): the notes' ``get_batch``
- ``dataset``: an encoded split cut into rows: a stream, items, or skip-gram pairs
- ``plain_tokenizers``: text to ids and back, by character, word or byte
- ``bpe``: by byte pairs, learnt from a text or elsewhere
- ``tokenizers``: the one that a config names or a checkpoint carries
- ``splits``: a text cut into train, val and test
- ``token_files``: a text larger than memory as files of its tokens, written and opened
- ``corpora``: known corpora by name, your own text by path
- ``text_file``: UTF-8 files
- ``fetch``: what lies elsewhere, brought here once
"""
