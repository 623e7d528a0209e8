"""Look through the built site: every internal link and anchor leads somewhere, and no page loads from a network.

    python docs/check_site.py build/site

External links are not followed. Exit status 1 with one line for each mistake.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
NAMES = {"canonical", "author", "license", "next", "prev", "index", "search"}  # relations of links that load nothing


class Page(HTMLParser):
    """The anchors of a page, where it links to, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        values = dict(attrs)
        self.anchors |= {name for name in (values.get("id"), values.get("name") if tag == "a" else None) if name}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        related = set((values.get("rel") or "").split())
        if tag in LOADS and values.get(LOADS[tag]) and not (tag == "link" and related & NAMES):
            self.loads.append(values[LOADS[tag]] or "")


def mistakes(site: Path) -> list[str]:
    """One line for each link that leads nowhere and each thing that is loaded from a network."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        here = path.relative_to(site)
        for address in page.loads:
            if urlsplit(address).netloc:
                found.append(f"{here}: loads {address} from a network")
        for address in [*page.links, *page.loads]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{here}: {address} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{here}: {address} names an anchor that is not there")
    for sheet in sorted(site.rglob("*.css")):
        if "url(http" in sheet.read_text().replace('"', "").replace("'", "") or "@import url(//" in sheet.read_text():
            found.append(f"{sheet.relative_to(site)}: loads from a network")
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    said = mistakes(folder)
    if said:
        print(*said, sep="\n")
        sys.exit(f"{len(said)} mistake(s) in {folder.name}")
