"""Figures and findings of a chapter, and the book around them."""
