"""Right for every problem of any length, or where it is not: enumeration, and a search for mistakes."""
