"""`python -m service.cli` is `usher`."""

from service.cli import main

main()
