"""``python -m depthsig``: the command, by the Python that it is installed for."""

from depthsig.cli.main import run

if __name__ == "__main__":
    run()
