"""Findings that a data set states -> columns of the 14: what it denies, and what it leaves open."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kdistill.observations import NO_FINDING, OBSERVATIONS, PARENT, Labels, LabelState


def columns_of_findings(stated: Collection[str], unsure: Collection[str], labelled: Iterable[str]) -> Labels:
    """The label columns of a study whose data set lists what is there.

    Args:
        stated: Observations that are stated.
        unsure: Observations that something else on the list makes neither certain nor deniable.
        labelled: Observations that the data set labels at all; the others get no column.

    Returns:
        1 stated; 0 not on the list; None where a 0 would be unsound: it is unsure, or a child of it in the CheXpert
        ontology is stated (whoever lists a pneumonia need not list the opacity). "No Finding" is 1 or None.

    >>> columns_of_findings({"Edema"}, {"Pneumonia"}, ["Lung Opacity", "Edema", "Pneumonia", "Fracture"])
    {'Lung Opacity': None, 'Edema': 1, 'Pneumonia': None, 'Fracture': 0}
    """
    wanted, open_ones = set(labelled), set(unsure) | _parents(stated)
    return {name: _state(name, stated, open_ones) for name in OBSERVATIONS if name in wanted}


def _state(name: str, stated: Collection[str], open_ones: Collection[str]) -> LabelState:
    if name in stated:
        return 1
    return None if name in open_ones or name == NO_FINDING else 0


def _parents(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for child in names:
        name = child
        while name in PARENT:
            name = PARENT[name]
            found.add(name)
    return found
