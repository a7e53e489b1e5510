"""Pictures for others: an engine in which requests share the model, and what speaks to it."""
