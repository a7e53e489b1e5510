"""The wing for the library that keras_sd succeeds: KerasCV's names, arithmetic and files.

`keras_sd.models` has its classes under the paths that they had there. The house is complete without
this wing and knows it through two doors, which open when somebody asks for KerasCV:
`keras_sd.compat`, for a version's arithmetic, and `keras_sd.weights.keras_cv_h5`, for its files.
"""
