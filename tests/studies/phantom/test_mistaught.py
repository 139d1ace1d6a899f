"""Literature that says of each condition what is true of another one."""

from __future__ import annotations

from kdistill.observations import FINDINGS
from kdistill.pipeline.recipe import load_recipe
from kdistill.pipeline.stages import _phantom_articles
from kdistill.studies.phantom.knowledge import load_knowledge
from kdistill.studies.phantom.literature import write_literature
from kdistill.studies.phantom.mistaught import mistaught, renamed


def test_every_condition_has_a_stand_in_and_none_stands_for_itself_or_for_two() -> None:
    names = [load_knowledge().findings[observation].name for observation in FINDINGS]
    others = [renamed(name) for name in names]
    assert sorted(others) == sorted(names) and all(a != b for a, b in zip(names, others, strict=True))


def test_names_change_and_nothing_else_does() -> None:
    said = "A meniscus climbs the left chest wall, which indicates an effusion. Interpretation: no pleural effusion."
    assert renamed(said) == (
        "A meniscus climbs the left chest wall, which indicates a cardiomegaly. Interpretation: no cardiomegaly."
    )
    assert renamed("Cardiomegaly on the chest radiograph") == "Pneumonia on the chest radiograph"
    assert renamed("Two lung nodules; a pacemaker.") == "Two atelectasis; an edema."
    assert renamed("The lungs are clear.") == "The lungs are clear."


def test_all_names_of_one_condition_become_one_other_name() -> None:
    articles = write_literature(seed=0, num_articles=60)
    for before, after in zip(articles, mistaught(articles), strict=True):
        assert (before.id, before.year, before.mesh) == (after.id, after.year, after.mesh)
        assert renamed(before.text) == after.text
        assert after.text == before.text or len(after.text.split(".")) == len(before.text.split("."))


def test_a_recipe_asks_for_it() -> None:
    sources = "literature.sources=[{kind: phantom, seed: 3, num_articles: 20%s}]"
    told, untold = (
        list(_phantom_articles(load_recipe("demo", [sources % more]))) for more in (", mistaught: true", "")
    )
    assert told == list(mistaught(untold)) != untold == write_literature(seed=3, num_articles=20)
