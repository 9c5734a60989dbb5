def gen_data() -> None:
    """Make data."""
