"""Images that were brought in and unpacked, each once, under the digest that nobody else's can have."""

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import ImageMismatch, UnknownImage
from sandbox.images import layer
from sandbox.images.archive import Contents, ImageArchive, open_archive

_IS_ID = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that is here."""

    id: str
    digests: tuple[str, ...]
    env: tuple[str, ...]
    tree: Path
    """Its root."""

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for name, _, value in (each.partition("=") for each in self.env)}


class ImageStore:
    """Images in a folder, which only this user may enter."""

    def __init__(self, folder: Path) -> None:
        self._images = folder / "by-id"
        self._names = folder / "by-name"
        self._folder = folder

    def add(self, path: Path, names: tuple[str, ...] = ()) -> tuple[StoredImage, tuple[str, ...]]:
        """Bring in an image file or folder; also gives its names: those in the file, or those given here.

        Raises:
            SandboxRejected, ImageMismatch: it is damaged, or not what it says.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._images.mkdir(exist_ok=True)
        self._names.mkdir(exist_ok=True)
        with open_archive(path) as archive:
            contents = archive.contents()
            if not self._is_here(contents.id):
                self._unpack(archive, contents)
        names = names or contents.names
        for name in names:
            self._call(_full(name), contents.id)
        return self._load(contents.id), names

    def find(self, reference: str) -> StoredImage:
        """The image of a name, ``name@sha256:...`` or ``sha256:...``.

        Raises:
            UnknownImage: it is not here.
            ImageMismatch: there is one of that name with another digest.
        """
        name, _, digest = reference.partition("@")
        own = name if _IS_ID.fullmatch(name) else self._called(_full(name))
        if own is None or not self._is_here(own):
            raise UnknownImage(
                f"local sandboxes have no image {name!r}; bring it in, such as by: docker save {name} -o image.tar && "
                "python -m sandbox.images add image.tar"
            )
        image = self._load(own)
        if digest and digest not in (image.id, *image.digests):
            raise ImageMismatch(f"the image {name!r} is here as {image.id}, not as {digest}; bring in the right one")
        return image

    def names(self) -> dict[str, str]:
        """Name -> id of every image that has a name."""
        records = [json.loads(file.read_text()) for file in self._names.glob("[!.]*")]
        return {each["name"]: each["id"] for each in records}

    def _unpack(self, archive: ImageArchive, contents: Contents) -> None:
        with tempfile.TemporaryDirectory(dir=self._images, prefix="part-", ignore_cleanup_errors=True) as name:
            tree = Path(name, "tree")
            tree.mkdir(mode=0o755)
            tree.chmod(0o755)
            root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for each in contents.layers:
                    with archive.layer(each) as file:
                        layer.unpack(file, root)
            finally:
                os.close(root)
            about = {"id": contents.id, "digests": contents.digests, "env": contents.env}
            Path(name, "image.json").write_text(json.dumps(about))
            if not self._is_here(contents.id):
                Path(name).rename(self._place(contents.id))

    def _load(self, image_id: str) -> StoredImage:
        place = self._place(image_id)
        about = json.loads((place / "image.json").read_text())
        return StoredImage(about["id"], tuple(about["digests"]), tuple(about["env"]), place / "tree")

    def _is_here(self, image_id: str) -> bool:
        return (self._place(image_id) / "image.json").exists()

    def _place(self, image_id: str) -> Path:
        return self._images / image_id.removeprefix("sha256:")

    def _call(self, name: str, image_id: str) -> None:
        file = self._called_in(name)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        part.write_text(json.dumps({"name": name, "id": image_id}))
        part.replace(file)

    def _called(self, name: str) -> str | None:
        try:
            return str(json.loads(self._called_in(name).read_text())["id"])
        except FileNotFoundError:
            return None

    def _called_in(self, name: str) -> Path:
        return self._names / hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def _full(name: str) -> str:
    """With its tag, as Docker does it: the last part's, or ``latest``."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
