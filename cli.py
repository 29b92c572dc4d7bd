"""The command line; its commands are in commands/."""

from commands.table import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
