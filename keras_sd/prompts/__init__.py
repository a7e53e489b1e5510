r"""Prompts as people write them: weights, long texts, edits over the steps, several parts, tags.

`parse` reads a text in one of five styles:

- "plain": the text is text.
- "keras_sd": the grammar of A1111's web UI without its faults, which are below.
- "a1111": that grammar as the web UI reads it, for the pictures made with it.
- "comfy": ComfyUI's.
- "compel": compel's, which InvokeAI has too.

| in | "keras_sd" | "a1111" |
|---|---|---|
| `(a BREAK b:1.2)` | a new chunk | the word `BREAK` with weight -1.2 |
| `[a:b:3]` | b from step 4 on | b from step 5 on |
| `[a:b:0.29]` of 100 steps | b after step 29 | b after step 28: the product is cut off |
| `a ratio of 16:9` | text | `a ratio of 16` with weight 9, as if there were an AND |
| `[a:b:3] c\|d` | the edit is one, the bar is text | all of it is text |
| `[(a:b:1.4):c:3]` | an edit | text: in an edit, brackets hold one colon |

In both a weight that is no number, `(a:1.2.3)`, is a `PromptError`; the web UI crashes. Where
brackets do not match, its parser may take one edit for text and the next one not; here each edit is
one. In ComfyUI they make text of what follows; here they are text, and what follows is read.

`script` says which texts the steps of a run have, `chunks` breaks a text into chunks of tokens, and
`explain` shows all of it. The values are plain and frozen; of a model they need its tokenizer.
"""

from keras_sd.prompt_styles import STYLES
from keras_sd.prompts.chunking import Chunk, Whole, chunks
from keras_sd.prompts.explanation import Explanation, explain
from keras_sd.prompts.grammar import Part, Prompt, Range, parse, sections
from keras_sd.prompts.turns import Line, Script, Turn, script
from keras_sd.prompts.values import (
    Alternation,
    Edit,
    Join,
    PromptError,
    Section,
    Segment,
    Tag,
    Written,
)

__all__ = [
    "STYLES",
    "Alternation",
    "Chunk",
    "Edit",
    "Explanation",
    "Join",
    "Line",
    "Part",
    "Prompt",
    "PromptError",
    "Range",
    "Script",
    "Section",
    "Segment",
    "Tag",
    "Turn",
    "Whole",
    "Written",
    "chunks",
    "explain",
    "parse",
    "script",
    "sections",
]
