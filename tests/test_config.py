"""FAULTS 32: typos, wrong types, Python objects and alias bombs in a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from kdistill.config import ConfigModel, apply_overrides, config_hash, dump_yaml, load_config, parse_yaml, validate
from kdistill.errors import ConfigError


class Small(ConfigModel):
    kind: Literal["small"] = "small"
    learning_rate: float = 0.1


class Large(ConfigModel):
    kind: Literal["large"] = "large"
    num_layers: int = 2


class Outer(ConfigModel):
    name: str = "x"
    model: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    items: tuple[Small, ...] = ()


@pytest.fixture
def recipe(tmp_path):
    def write(text: str):
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: x", "did you mean 'name'"),
        ("model: {kind: small, learning_rat: 1}", "did you mean 'learning_rate'"),
        ("model: {kind: large, layers: 1}", "did you mean 'num_layers'"),
        # A key of the other member of the union is no advice.
        ("model: {kind: large, learning_rat: 1}", "known keys: kind, num_layers"),
        ("model: {kind: larg}", "model: there is no kind 'larg'; did you mean 'large'? One of small, large"),
        ("model: {num_layers: 2}", "model: has no kind; one of small, large"),
        ("items: [{learningrate: 1}]", "did you mean 'learning_rate'"),
        ("zzzz: 1", "known keys: items, model, name"),
        ("model: {kind: small, learning_rate: fast}", "learning_rate"),
        ("model: {kind: medium}", "small"),
        ("name: !!python/object:os.system x", "could not determine a constructor"),
        ("name: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: &a [x, x]\nname: *a", "aliases"),
        ("name: x\nname: y", "stands twice"),
        ("- a list", "not a mapping"),
        ("name: [unclosed", "line 1"),
    ],
)
def test_a_wrong_recipe_gets_a_sentence(recipe, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, recipe(text))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_alias_bomb_is_stopped_before_it_grows(recipe):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases"):
        load_config(Outer, recipe("\n".join(lines)))


def test_a_huge_file_and_deep_nesting_are_refused(recipe):
    with pytest.raises(ConfigError, match="larger than"):
        load_config(Outer, recipe("x" * 300_000))
    with pytest.raises(ConfigError, match="deep"):
        load_config(Outer, recipe("name: " + "[" * 20_000))


def test_numbers_in_exponent_form_are_numbers():
    assert parse_yaml("a: 3e-4", where="x") == {"a": 3e-4}
    assert parse_yaml("a: 3e", where="x") == {"a": "3e"}


def test_overrides_win_and_may_replace_a_section(recipe):
    path = recipe("model: {kind: small, learning_rate: 1.0}")
    assert load_config(Outer, path, ["model.learning_rate=3e-4"]).model == Small(learning_rate=3e-4)
    assert load_config(Outer, path, ["model={kind: large, num_layers: 5}"]).model == Large(num_layers=5)


@pytest.mark.parametrize("override", ["name", "=x", "a..b=1", "name.x=1"])
def test_a_wrong_override_says_how_to_write_one(override):
    with pytest.raises(ConfigError):
        apply_overrides({"name": "x"}, [override])


def test_overrides_leave_their_input_alone():
    data = {"a": {"b": 1}}
    apply_overrides(data, ["a.b=2"])
    assert data == {"a": {"b": 1}}


@given(st.floats(0.001, 10), st.text(alphabet="abc: #'\"-\n é", max_size=20))
def test_dump_reads_back_to_the_same_model_and_hash(rate, name):
    config = Outer(name=name, model=Small(learning_rate=rate))
    again = validate(Outer, parse_yaml(dump_yaml(config), where="x"), where="x")
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_hash_sees_every_value():
    assert config_hash(Outer(name="a")) != config_hash(Outer(name="b"))
