"""Pictures for others: an engine in which requests share the model, and what speaks to it.

What draws (`engine`) knows no HTTP, and what speaks HTTP (`app`) knows no model: between them is
`source`, and the value of both is `jobs`. `listen` runs the application on a port. Starlette,
uvicorn and greenlet are the extra `web`, which nothing outside this package imports.
"""
