"""`python -m commands`: how a cluster starts code that was shipped to it as packages."""

from commands.table import main

if __name__ == "__main__":
    main()
