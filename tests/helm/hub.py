"""What of the hub's protocol fetching a snapshot needs, over one folder: hub.py FOLDER REPOSITORY REVISION."""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, repository, revision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
_LISTED = f"/api/models/{repository}/tree/{revision}"
_FILES = f"/{repository}/resolve/{revision}/"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        """The body, when the headers are sent."""
        path = self.path.partition("?")[0]
        file = folder / path.removeprefix(_FILES)
        if path == _LISTED:
            body = json.dumps([_entry(each) for each in sorted(folder.iterdir())]).encode()
        elif path.startswith(_FILES) and file.is_file():
            body = file.read_bytes()
        else:
            self.send_error(404)
            return b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        return body


def _entry(file: Path) -> dict[str, object]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}


ThreadingHTTPServer(("0.0.0.0", 8080), Hub).serve_forever()
