"""Decoding: one engine for everything that lets a model write."""
