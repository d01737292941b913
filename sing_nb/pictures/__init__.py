"""Photographs and views of them, their features, and what is kept on disk."""
