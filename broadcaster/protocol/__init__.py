"""The protocol, pure: messages, frames, errors, and the machines for upload, fetch and follow.

Nothing in this package performs I/O, reads a clock or makes randomness: time, ids and buffers are arguments.
The contract is docs/protocol.md; a test holds the message classes to it.
"""
