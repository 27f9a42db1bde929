"""The commands, one module for each launcher in ``scripts/``: options, ``main`` and what is printed."""
