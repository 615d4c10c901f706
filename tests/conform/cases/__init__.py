"""The cases, one module for each section of the table of what has to be the same.

Each case has the number of the row that it belongs to, a name, and a docstring with its one fact.
"""

import importlib
import pkgutil

BOTH = ("dash", "bash")
CASE_LIMIT_S = 30


class Case:
    """A function that takes a trial.Trial, with what the runner has to know about it."""

    def __init__(self, row, name, run, shells, limit_s, alone, twin):
        self.row, self.name, self.run = row, name, run
        self.shells, self.limit_s, self.alone, self.twin = shells, limit_s, alone, twin
        self.about = (run.__doc__ or "").strip().splitlines()[0]


CASES = []


def case(row, name, shells=BOTH, limit_s=CASE_LIMIT_S, alone=False, twin=True):
    """Registers a case. alone: nothing else runs meanwhile. twin=False: a promise of ours that has no
    counterpart in the local shell; it runs through modalsh only and its guards are what is checked."""
    def register(run):
        CASES.append(Case(row, name, run, shells, limit_s, alone, twin))
        return run
    return register


def load_all():
    """Imports every module of this package; returns the cases in the order of their rows."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(CASES, key=lambda each: each.row)
