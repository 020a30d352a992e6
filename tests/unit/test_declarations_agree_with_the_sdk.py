"""What is declared without the SDK, on a worker, is what the SDK takes in the front end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import X_MCP_HEADER_KEY, find_invalid_x_mcp_header, x_mcp_header_map
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from tasks_service import ConfigurationError
from tasks_service.authoring.headers import KEYWORD, has_headers
from tasks_service.authoring.uri_template import template_variables

# --- templates of URIs --------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "a_1", "a.b", "9"])
EXPRESSIONS = st.builds(
    lambda operator, names: "{" + operator + ",".join(names) + "}",
    st.sampled_from(["", "+", "#", ".", "/", ";", "?", "&"]),
    st.lists(NAMES, min_size=1, max_size=3),
)
ODD = st.sampled_from(["{", "}", "{}", "{+}", "{a:3}", "{a*}", "{a b}", "{a,}", "{!a}", "{a.}", "{{a}}"])
PLAIN = st.sampled_from(["/", "x", "?", "#", ""])
PIECES = st.lists(st.one_of(EXPRESSIONS, EXPRESSIONS, PLAIN, ODD), max_size=5)


@settings(max_examples=500, deadline=None)
@given(PIECES)
@example(["{" + ",".join(f"v{n}" for n in range(257)) + "}"])
@example(["{" + ",".join(f"v{n}" for n in range(256)) + "}"])
@example(["x" * 9_000])
def test_a_template_can_be_declared_if_the_front_end_can_match_it(pieces: list[str]) -> None:
    template = "acme://" + "".join(pieces)
    try:
        parsed = UriTemplate.parse(template)
    except InvalidUriTemplate:
        with pytest.raises(ValueError, match=r".+"):
            template_variables(template)
        return
    if any(variable.explode for variable in parsed.variables):
        with pytest.raises(ValueError, match="has one value here"):
            template_variables(template)
    else:
        assert list(template_variables(template)) == parsed.variable_names


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a://{b", "the brace at position 4 is not closed"),
        ("a://{}", "'' is no name of a variable"),
        ("a://{b}{c}", "nothing stands between 'c' and the variable before it"),
        ("a://{b}/{b}", "the variable 'b' occurs twice"),
        ("a://{+b}/{+c}", "slashes could be in either"),
        ("a://{?b}{?c}", "write {?a,b}"),
        ("a://{b:3}", "write it without :"),
    ],
)
def test_a_template_that_cannot_work_is_refused_with_a_sentence(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        template_variables(template)
    assert said in str(refused.value)


# --- parameters in headers ----------------------------------------------------------------------------

LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer", "boolean", "number", ["string", "null"], None]),
        X_MCP_HEADER_KEY: st.sampled_from(["Region", "region", "Zone", "", "The Zone", 3, None, "Zöne"]),
    },
)


def _deeper(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(NAMES, schemas, max_size=2)
    keywords = {
        "properties": named,
        "$defs": named,
        "items": schemas,
        "anyOf": st.lists(schemas, max_size=2),
        "default": schemas,
        "additionalProperties": st.one_of(st.booleans(), schemas),
    }
    return st.fixed_dictionaries({"type": st.just("object")}, optional=keywords)


@settings(max_examples=300, deadline=None)
@given(st.recursive(LEAVES, _deeper, max_leaves=6))
def test_a_header_can_be_declared_if_the_front_end_can_compare_it(schema: dict[str, Any]) -> None:
    if find_invalid_x_mcp_header(schema) is not None:
        with pytest.raises(ConfigurationError, match=KEYWORD):
            has_headers("Tool 'x'", schema)
    else:
        assert has_headers("Tool 'x'", schema) is bool(x_mcp_header_map(schema))


def test_the_keyword_is_the_sdks() -> None:
    assert KEYWORD == X_MCP_HEADER_KEY
