"""The server: answers over HTTP as OpenAI's interface has it, search and documents beside it.

    front       every request passes it: its id, its key, its size, its line in the log
    requests    bodies that clients send; replies: those that they get; chat, lookups, health: the paths
    asking      one request: its version, its retrieval in a thread, its rows in the engine
    engine      the thread that owns the model and lets requests join and leave the rows that run
    models      which names there are, and the versions that are open

Nothing but ``cli.serve`` imports this package: it brings torch and a web framework.
"""
