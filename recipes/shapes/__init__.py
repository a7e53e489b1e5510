"""Trainings of the model in the package on drawings made by code: see docs/training.md."""
