"""The ZeroMQ front: sockets and the poll loop. It translates between frames and the broker, and decides nothing."""
