"""Models and tokenizers of Hugging Face's form, in and out. In reading order:

- ``tokenizer_files``: a folder's tokenizer, written and read
"""
