"""What of the hub's protocol fetching a snapshot needs, over one folder: hub.py FOLDER REPOSITORY REVISION [PORT].

It says ``ready`` with its port when it is. A folder within the folder is listed as a file, and cannot be fetched.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, repository, revision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
_LISTED = f"/api/models/{repository}/tree/"
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
        if path == _LISTED + revision:
            body = json.dumps([_entry(each) for each in sorted(folder.iterdir())]).encode()
        elif path.startswith(_FILES) and file.is_file():
            body = file.read_bytes()
        elif path.startswith(_FILES):
            return self._refusal(500)
        else:
            return self._refusal(404, "RevisionNotFound" if path.startswith(_LISTED) else "RepoNotFound")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        return body

    def _refusal(self, status: int, code: str = "") -> bytes:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("X-Error-Code", code)
        self.end_headers()
        return b""


def _entry(file: Path) -> dict[str, object]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}


server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[4]) if len(sys.argv) > 4 else 8080), Hub)
print("ready", server.server_port, flush=True)
server.serve_forever()
