"""Checks of what the playbook promises, for anyone to run again: `make bench ONLY=<name>`."""


def check(id: str, value: float, op: str, target: float, *, n: int, spread: list[float]) -> dict:
    """One line of a benchmark's result: does the value keep its target?"""
    holds = {">=": value >= target, "<=": value <= target, "==": value == target}[op]
    return {"id": id, "value": value, "op": op, "target": target, "holds": holds, "spread": spread, "n": n}
