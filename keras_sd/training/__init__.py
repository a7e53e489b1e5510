"""Training: how the embedded model was made, and how to make yours."""
