"""LoRA files and their relatives: read, matched with a model, merged into it and taken out again.

| module | what it does |
|---|---|
| `writing` | a LoRA of ours as a file, in the layouts that others read |
| `kinds` | what each kind makes of a weight: NumPy in float32 |
| `files` | a file as an `Adapter`: a change for each place, by the file's own names |
| `names` | every name that a layer of a model has in these files, made from the tables of weights |
| `matching` | which place of the file is which layer of a model, and what is wrong with it |
| `merging` | the changed weights in the networks, and the weights before them |
| `inspection` | what a file is, for people |

Nothing is taken for granted: a place that the model does not have is an error, and so is a file of
which no place is in the model.
"""

from keras_sd.adapters.files import Adapter, Change, open_adapter
from keras_sd.adapters.matching import Match, Use, match

__all__ = ["Adapter", "Change", "Match", "Use", "match", "open_adapter"]
