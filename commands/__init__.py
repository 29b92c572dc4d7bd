"""The commands of cli.py, by what one does with them. They parse, call jobs or storage, and print; no logic lives here."""
