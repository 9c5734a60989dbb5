"""Servers that one would otherwise write around the model `addsub-3digit`: each a file that is run with a port."""
