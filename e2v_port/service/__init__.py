"""What `e2v serve` runs: HTTP, a WebSocket for live audio, and a page.

A request arrives in `http`: `connections` and `gate` limit and check it, `bodies` reads it, `routes` answers it;
`streams` serves a WebSocket. `settings` and `state` are shared. `engine` is this process's end of a pipe to a second
one, `worker`, which decodes audio and holds the models; `batching` runs segments of several requests together, and
`reading` reads their words in turn. `history` stores judgements if asked to.
"""
