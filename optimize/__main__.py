"""The command `optimize`. Where its extra is not installed, it says which one it needs."""

import importlib.util
import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    if sys.version_info < (3, 11):  # the runtime is installed on devices with 3.10
        print("optimize needs Python 3.11; on a device use `python -m runtime`.", file=sys.stderr)
        return 2
    lacking = [name for name in ("pydantic", "rich", "typer") if importlib.util.find_spec(name) is None]
    if lacking:
        print(
            f"the command `optimize` needs its extra ({lacking[0]} is missing): pip install 'edge-optimize[all]'\n"
            "On a device a bundle is run with `import runtime`, or `python -m runtime run|bench|check BUNDLE`.",
            file=sys.stderr,
        )
        return 2
    from optimize.cli import app

    return app()


if __name__ == "__main__":
    sys.exit(main())
