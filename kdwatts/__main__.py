"""`python -m kdwatts`."""

from kdwatts.cli import main

if __name__ == "__main__":
    main()
