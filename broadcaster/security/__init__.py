"""Who may do what: keys in files, what each of them allows, and who is let in."""

from broadcaster.security.book import Book, Entry, read_book
from broadcaster.security.door import LOCAL, NETWORK, TRUSTED, admit
from broadcaster.security.files import KeyDirectory, ServerKey
from broadcaster.security.guard import Guard
from broadcaster.security.roles import ROLES, Grant, Verb

__all__ = [
    "LOCAL",
    "NETWORK",
    "ROLES",
    "TRUSTED",
    "Book",
    "Entry",
    "Grant",
    "Guard",
    "KeyDirectory",
    "ServerKey",
    "Verb",
    "admit",
    "read_book",
]
