"""The command line. In reading order:

- ``main``: how a command begins, and how it ends
- ``flags``: a command line as checked values
- ``help``: the text of ``--help`` and ``--print_config``
"""
