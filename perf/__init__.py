"""Measurements of toolrefine beside what people would use instead."""
