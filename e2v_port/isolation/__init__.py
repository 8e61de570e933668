"""Analyses in a process of their own, which a time limit ends for sure and whose crash costs one clip."""
