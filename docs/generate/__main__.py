"""Write everything that is generated: `python -m docs.generate`."""

from __future__ import annotations

from docs.generate import reference


def main() -> None:
    """Write the pages of docs/reference/, and remove those that are no more."""
    reference.FOLDER.mkdir(exist_ok=True)
    pages = reference.pages()
    for path in reference.FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (reference.FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
