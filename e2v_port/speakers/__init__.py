"""Tells voices apart, and names those that are enrolled."""
