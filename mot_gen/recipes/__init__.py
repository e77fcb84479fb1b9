"""Recipes: `recipe` reads and checks them, `sections` holds their fields, and the YAML files beside these ship."""
