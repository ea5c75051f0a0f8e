"""What ours is measured against: programs that move the same bytes and promise less."""
