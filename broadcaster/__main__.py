"""`python -m broadcaster` is the command `broadcaster`."""

from broadcaster.entry import main

if __name__ == "__main__":
    main()
