"""The checkpoints that come with mathllm, by name."""

from mathllm.finding import SHIPPED

ARITHMETIC = SHIPPED / "arithmetic"
ANY_LENGTH, MULTIPLY, DIVIDE = (SHIPPED / f"{verb}-any-length" for verb in ("add", "multiply", "divide"))
ADDSUB, OWN_THOUGHTS = SHIPPED / "addsub-3digit", SHIPPED / "own-thoughts"
