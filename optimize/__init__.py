"""From a trained model and real data to a measured, verified bundle: `optimize.run("recipe.toml")`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimize.pipeline import run
    from optimize.recipe import Recipe
    from optimize.report import Report

__all__ = ["Recipe", "Report", "run"]


def __getattr__(name: str) -> Any:
    # A worker that runs the original imports this package, and must load no more than it runs.
    import importlib

    homes = {"run": "optimize.pipeline", "Recipe": "optimize.recipe", "Report": "optimize.report"}
    if name not in homes:
        raise AttributeError(f"module 'optimize' has no attribute '{name}'")
    return getattr(importlib.import_module(homes[name]), name)
