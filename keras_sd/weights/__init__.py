"""Weights: what foreign files call them, reading, loading and saving them.

`names` has the tables, `readers` the files, `load` and `save` the way into and out of a model.
"""
