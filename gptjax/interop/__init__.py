"""Models and tokenizers of Hugging Face's form, in and out. In reading order:

- ``gpt2``: one table of parameters and the config, for both ways
- ``fold``: a bias of lm_head, which GPT-2 lacks
- ``safetensors_files``: files of tensors, read one by one
- ``tokenizer_files``: a folder's tokenizer, written and read
- ``model_card``: what is known of a run
- ``folders``: a whole folder, in and out
"""
