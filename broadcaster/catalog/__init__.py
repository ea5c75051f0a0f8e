"""What versions there are, and what must leave memory: `catalog.py` decides, `eviction.py` knows whose turn it is."""

from broadcaster.catalog.catalog import Catalog, Kept, Retention

__all__ = ["Catalog", "Kept", "Retention"]
