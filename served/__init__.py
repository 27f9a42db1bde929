"""The served form of a model: plain arrays, evaluated with numpy alone.

It gives the doubles of the pipeline that it was compiled from: see ``scripts/models/compiling.py``.
"""
