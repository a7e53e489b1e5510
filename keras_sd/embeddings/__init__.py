"""Embeddings of textual inversion (Gal et al. 2022): vectors that take the places of tokens.

| module | what it does |
|---|---|
| `files` | a file as an `Embedding`: its vectors, and what it says of itself |
| `writing` | vectors of ours as a file, in the layouts that others read |
| `using` | embeddings beside a model, by the names that a prompt calls them by |

Names are found in a text by `keras_sd.prompts.names`.
"""

from keras_sd.embeddings.files import Embedding, open_embedding
from keras_sd.embeddings.using import Named

__all__ = ["Embedding", "Named", "open_embedding"]
