"""What the reference family was trained with; ``python -m data.recipe.family`` from the repository's root runs it."""
