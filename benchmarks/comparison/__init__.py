"""How long a picture takes, here and in other programs, on the same weights: `compare.py`.

`cases` says what is measured, `model` makes the weights, `runs` starts a `worker` process for each
measurement and collects what it says, `results` turns that into medians, `table` and `plot` show
them. A worker drives one of `systems`.
"""
