"""The decoder-only transformer, its position schemes and its key/value cache."""
