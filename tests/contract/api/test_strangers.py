"""Whatever a stranger makes of the API's description, every answer is one that the description announces."""

import random
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deploy.openapi import FILE

from .conftest import Running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


schema = schemathesis.openapi.from_path(FILE)


@schema.parametrize()
@settings(
    max_examples=5,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_announced(case: Case[Any], service: Running) -> None:
    chance = random.Random(repr(case.path_parameters))
    for name in case.path_parameters or {}:
        if name in service.ids and chance.random() < 0.7:  # Made up ids alone would see nothing but 404.
            case.path_parameters[name] = chance.choice(service.ids[name])
    case.call_and_validate(base_url=service.url, checks=CHECKS, timeout=60)
