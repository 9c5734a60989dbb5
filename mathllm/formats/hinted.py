"""As `reversed`, with an index hint before every digit (arXiv 2310.16028): `1929+1122=102231<end>` for 99 + 21 = 120.

A hint is the digit's place, 1 for the units, without its tens: so the hints of numbers that line up are equal. The
paper's start at a random one.
"""

from mathllm.formats.base import Format

HINTED = Format(
    "hinted", "as reversed, with its place before every digit", least_significant_first=True, hints=True
)
