"""What `run.py` measures on a GPU: jobs, each in a process of its own, and the table of them."""
