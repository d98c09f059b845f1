"""Write everything that is generated: `python -m docs.generate`."""

from __future__ import annotations

from docs.generate import layers, pictures, reference
from docs.generate.sources import Sources


def main() -> None:
    """Write everything, and remove the pages of docs/reference/ that are no more."""
    sources = Sources()
    layers.PAGE.write_text(layers.page(sources))
    for name, picture in pictures.pictures(sources).items():
        (pictures.FOLDER / name).write_text(picture)
    reference.FOLDER.mkdir(exist_ok=True)
    pages = reference.pages(sources)
    for path in reference.FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (reference.FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
