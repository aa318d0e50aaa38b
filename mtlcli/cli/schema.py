"""`mtl schema`."""

import json
from typing import Annotated

import typer


def schema(
    built_in: Annotated[bool, typer.Option("--built-in", help="Leave out plugins of other packages.")] = False,
) -> None:
    """Print the JSON Schema of a recipe, with which an editor completes and checks its keys.

    Point the first comment of a recipe to the file: # yaml-language-server: $schema=recipe.schema.json

    Example: mtl schema > recipe.schema.json
    """
    from mtlcli.config.json_schema import recipe_schema

    print(json.dumps(recipe_schema(built_in=built_in), indent=1, ensure_ascii=False))
