"""A made-up fashion catalogue: pictures drawn, and described, from attributes.

It needs nobody's data, so the demo, the tests and the benchmarks run on a fresh machine.
"""

from model.demo.write import write_demo_catalogue

__all__ = ["write_demo_catalogue"]
