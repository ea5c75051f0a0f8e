"""The broadcaster: a small server between a learner that publishes weights and the actors that use them.

Importing this package loads nothing heavy: the server's parts are imported by the commands that run them.
"""

__version__ = "0.1.0"
