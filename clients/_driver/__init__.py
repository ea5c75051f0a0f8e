"""The I/O thread of a client: the only code here that touches sockets."""
