"""What one does to data before training on it: look, check, split, drop duplicates, find benchmark items in it.

All but splitting work in memory that grows with the number of samples by a few bytes to a few hundred, never with
their length.
"""
