"The least of a charter that can be frozen, for tests of the value floor."

from __future__ import annotations


def charter(more: str = "", task: str = "binary", file: str = "data/raw.csv") -> str:
    "The text of the charter, with further tables behind it."
    return f"""
[problem]
name = "demo"
[data]
file = "{file}"
target = "y"
task = "{task}"
[criteria.performance]
threshold = 0.5
{more}"""
