"""What a model does inside: measurements on many problems, one file each, and a report of what they show.

Every measurement says how it was taken and how many problems it rests on; what it claims goes no further than that
(`inspection.claims`)."""
