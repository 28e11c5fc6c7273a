"""What the project costs and how that compares: `python -m benchmarks --help`."""
