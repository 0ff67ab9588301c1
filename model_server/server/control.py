"""What whoever runs an engine tells it between requests; SGLang's paths and fields."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import StringConstraints

from model_server.server.access import Access
from model_server.server.body import Fields, JsonObject, checked, json_object, present, read_body, without_neutral
from model_server.server.errors import from_engine
from model_server.server.placement_fields import Label
from model_server.server.transcripts import Transcripts
from model_server.server.wire import Json
from model_server.types import Engine, EngineError

_MAX_BODY_BYTES = 64 * 1024

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "flush_cache": (True,),
    "is_async": (False,),
    "keep_pause": (False,),
    "load_format": ("auto", "safetensors"),
    "manifest": (),
    "recapture_cuda_graph": (False,),
    "token_step": (0,),
    "torch_empty_cache": (False,),
}
"""Fields of SGLang's request for new weights that this server does not have."""


class OneSession(Fields):
    session_id: Label
    cache_salt: Label | None = None


class NewWeights(Fields):
    model_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """A folder on the machine of the engine."""
    weight_version: Label | None = None
    """What to call them; the path, unless said otherwise."""
    abort_all_requests: bool = False
    """End what runs instead of waiting for it."""


class Control:
    """The routes; each answers when what was asked for is done."""

    def __init__(self, engine: Engine, access: Access, transcripts: Transcripts) -> None:
        self._engine = engine
        self._access = access
        self._transcripts = transcripts

    def add_routes(self, router: APIRouter) -> None:
        router.add_api_route("/close_session", self._close_session, methods=["POST"])
        router.add_api_route("/flush_cache", self._flush_cache, methods=["POST"])
        router.add_api_route("/update_weights_from_disk", self._update_weights, methods=["POST"])

    async def _close_session(self, request: Request) -> Json:
        asked = checked(OneSession, await _fields(request))
        salt = self._access.salt(asked.cache_salt)
        self._transcripts.forget((salt, asked.session_id))
        try:
            return {"success": await self._engine.drop_session(salt, asked.session_id)}
        except EngineError as error:
            raise from_engine(error, asked.session_id) from error

    async def _flush_cache(self) -> Json:
        try:
            await self._engine.flush_cache()
        except EngineError as error:
            raise from_engine(error, "flush_cache") from error
        return {"success": True}

    async def _update_weights(self, request: Request) -> Json:
        asked = checked(NewWeights, without_neutral(await _fields(request), _UNSUPPORTED))
        version = asked.weight_version or asked.model_path
        try:
            await self._engine.load_weights(asked.model_path, version, abort=asked.abort_all_requests)
        except EngineError as error:
            raise from_engine(error, version) from error
        return {"success": True, "message": f"These weights run now as {version}.", "weight_version": version}


async def _fields(request: Request) -> JsonObject:
    return present(json_object(await read_body(request, _MAX_BODY_BYTES)))
