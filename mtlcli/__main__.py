"""`mtl` and `python -m mtlcli`."""

from mtlcli.cli import main

if __name__ == "__main__":
    main()
