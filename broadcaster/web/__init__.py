"""What the broadcaster tells over HTTP: health, metrics, pages. A client of the core like any other, in a process of its own."""
