"""What your own classifier ignores, as a page."""
