"""Answers in the place of sandboxd, for pods that only seem to run: ``python -m sandbox.testing.sandboxd --port 7070``.

One server stands for as many sandboxes as there are connections to it: whoever connects is the first and only one to
come to a new sandbox, whose every command ends at once with 0 and without output. It ends with its standard input.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
from collections.abc import Sequence

from sandbox.wire import frames
from sandbox.wire.ending import Ended
from sandbox.wire.link import Health

_BACKLOG = 4096
_HEALTH = Health(
    version=1,
    machine="none",
    first_of_all=False,
    landlock=0,
    memory=False,
    running=0,
    ended=0,
    refused=0,
    lease_left_s=60.0,
).model_dump()
_ENDED = Ended(how="exited", code=0, total=0, run_s=0.0, detail="").model_dump()
_ANSWERS: dict[str, dict[str, object]] = {
    "hello": {"health": _HEALTH},
    "health": {"health": _HEALTH},
    "renew": {},
    "start": {},
    "poll": {"end": _ENDED},
    "ack": {},
}
_UNKNOWN = {"error": "bad_request", "detail": "only a double answers here"}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be one sandbox, until its client goes away."""
    boot = secrets.token_hex(16)
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head, _ = await frames.read(reader)
            question = json.loads(head)
            said = _ANSWERS.get(question["op"], _UNKNOWN)
            writer.write(frames.encode({"id": question["id"], "boot": boot, **said}))
            await writer.drain()
    writer.close()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.testing.sandboxd", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="On every address of this machine.")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args(argv).port))


async def _serve(port: int) -> None:
    async with await asyncio.start_server(answer, "0.0.0.0", port, backlog=_BACKLOG):  # noqa: S104  # it stands for many
        print("ready", flush=True)  # noqa: T201  # for whoever started it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    main()
