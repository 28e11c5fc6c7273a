"""What is measured: a module a part, each with `run(settings)`."""
