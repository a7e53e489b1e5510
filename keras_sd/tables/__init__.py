"""Pictures of a table of prompts: a data set, drawn once, however often the drawing is cut off."""
