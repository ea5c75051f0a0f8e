"""What the broadcaster costs, against what would be used instead: one question a file, one JSON line a result."""
