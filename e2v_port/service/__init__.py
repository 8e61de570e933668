"""`e2v serve`: HTTP, a WebSocket for live audio, and a page.

A request comes through `server` (connections) and `gate` (who may ask, how much, how fast) to `routes` or `streams`.
What these share is in `state`. `engine` is their end of a pipe to a second process, `worker`, which decodes and holds
the models; `batching` puts together what several requests want of a model. `history` is what is stored where that was
asked for.
"""
