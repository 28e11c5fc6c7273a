"""`fashionbert`, and `python -m service.cli`."""


def main() -> None:
    """Run the command line."""
    # Not above: each process of `fashionbert index build --processes` imports what started it.
    from service.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
