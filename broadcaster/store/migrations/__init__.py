"""Schema changes of the archive's index, both ways."""
