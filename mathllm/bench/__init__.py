"""How fast is this machine, and how close to its limits does mathllm get? One file per section.

for section in ("machine", "training"):
    for measurement in run_section(section, Options()).measurements:
        print(measurement)

A section runs in a process of its own, so that its peak memory is its own.
"""

from mathllm.bench.measure import Measurement, Options, SectionResult
from mathllm.bench.sections import ALWAYS, SECTIONS, about, run_section

__all__ = ["ALWAYS", "SECTIONS", "Measurement", "Options", "SectionResult", "about", "run_section"]
