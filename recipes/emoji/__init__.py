"""The recipe of the grown `emoji` model: README.md beside this file says how it is run."""
