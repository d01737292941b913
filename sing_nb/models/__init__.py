"""Classifiers, joint spaces and renderers, by name, from a file or from your own code."""
