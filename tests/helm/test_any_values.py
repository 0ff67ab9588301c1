"""Whatever the schema allows is rendered, or refused in words of ours; a chart that breaks does neither."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings

from deploy.cluster import programs
from tests.helm.drawn import drawn_values
from tests.helm.release import HelmError
from tests.helm.rendered import render

pytestmark = [
    pytest.mark.skipif(
        bool(programs.missing()) or not programs.are_built(),
        reason="Helm is not built: deploy/setup.sh --for-tests",
    ),
    pytest.mark.timeout(600),
]


@settings(max_examples=25)
@given(values=drawn_values())
def test_whatever_the_schema_allows_is_rendered_or_refused_in_our_words(values: Mapping[str, Any]) -> None:
    try:
        made = render(values)
    except HelmError as error:
        if "execution error at" not in str(error):  # as Helm begins what a chart itself says
            raise
    else:
        names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in made.objects]
        assert len(names) == len(set(names))
        assert all(container["image"] for _, pod in made.pods() for container in pod["spec"]["containers"])
