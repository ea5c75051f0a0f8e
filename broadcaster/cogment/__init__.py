"""The Cogment front: `cogmentAPI.ModelRegistrySP` over gRPC, for programs that were written for the Cogment Model Registry.

It runs in the web process, on a thread and an event loop of its own, as a client of the core like any other, and never on the way
of a publication. `serve.py` is its door: `broadcaster serve --grpc-port 9000` (0: a free one) opens it, and the ready file says
under `grpc` where it is. What it promises is in docs/cogment.md.
"""
