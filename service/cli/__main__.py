"""`python -m service.cli`, the same as `fashionbert`."""

from service.cli import main

main()
