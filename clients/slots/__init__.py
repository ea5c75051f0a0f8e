"""The broadcaster's slots as a client on its host uses them: where they are, reading under a lease, writing under a grant."""
