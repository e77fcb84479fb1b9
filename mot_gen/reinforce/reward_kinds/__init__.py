"""Rewards that are no metric of `mot-gen eval`, one file each: `reward(where, recipe, splits, **options)` makes it."""
