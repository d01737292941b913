"""A profile's pictures, features and translators, and tables of them."""
