"""`python -m kdwatts`."""

from kdwatts.cli.command_line import main

if __name__ == "__main__":
    main()
