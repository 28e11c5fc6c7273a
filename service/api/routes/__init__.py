"""The routes, thin: parse, compute, answer."""
