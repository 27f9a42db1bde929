"""The served form of a model: plain arrays, with which numpy predicts the doubles of the model's pipeline.

``scripts/models/compiling.py`` compiles it. ``docs/formats.md`` describes the file.
"""
