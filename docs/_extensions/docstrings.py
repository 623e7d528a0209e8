"""The docstrings of this project as reStructuredText.

They are written to be read in a terminal: plain sentences, `code` in single backticks, equations as text, and sections
that may stand on one line, `Args: mask: 1 for real steps.` Such a line may go on in the next, which is indented unless
the break is inside a sentence. Only `.. math::` blocks are markup, and pass as they are.
"""

import re
from collections.abc import Iterator

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Not differentiated|Step metrics|Options)( \(.*?\))?: ?(.*)")
HAVE_TABLES = ("Attributes", "Options")
ENTRY = re.compile(r"(\*{0,2}[a-z_]\w*(?:, \*{0,2}[a-z_]\w*)*): +(.*)")


def to_rst(text: str) -> list[str]:
    """The lines of a docstring as reStructuredText.

    `Args` become parameters, other sections fields of the same list; `Options` and `Attributes` are left out, for they
    have tables.
    """
    body: list[str] = []
    fields: list[str] = []
    blocks = list(_blocks(text))
    for block in blocks:
        match = SECTION.match(block[0])
        if match is None:
            body += [*_block(block), ""]
        elif match[1] == "Args":
            fields += _arguments(match[3], block[1:])
        elif match[1] not in HAVE_TABLES:
            content = " ".join(line.strip() for line in [match[3], *block[1:]]).strip()
            fields += [f":{match[1]}{match[2] or ''}: {escaped(content)}"]
    return [*body, *fields, ""]


def attributes(text: str) -> dict[str, str]:
    """{name, or names with commas between: what the `Attributes` of a docstring say of it}."""
    found = {}
    for block in _blocks(text):
        match = SECTION.match(block[0])
        if match is not None and match[1] == "Attributes":
            pairs = (entry.partition(": ") for entry in _entries(match[3], block[1:]))
            found |= {name: about.strip() for name, _, about in pairs}
    return found


def first_sentence(text: str) -> str:
    """What a table of names says of one: its docstring to the first full stop that ends a sentence."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    match = re.match(r".*?\.(?= [A-Z`(]|$)", paragraph)
    return match[0] if match else paragraph


def escaped(text: str) -> str:
    """A line of a docstring: code in double backticks, *emphasis*, and no other mark of reStructuredText."""
    made = []
    for part in re.split(r"(`[^`]+`|(?<!\S)\*[A-Za-z][\w :]*\*(?!\w))", text):
        if part.startswith("`") and len(part) > 1:
            made.append(f"\\ `{part}`\\ ")  # an escaped space ends a mark inside a word, and is not shown
        elif part.startswith("*") and part.endswith("*") and len(part) > 1:
            made.append(part)
        else:
            made.append(re.sub(r"([\\*|_`])", r"\\\1", part))
    return re.sub(r"(^|(?<=\s))\\ (?=`)|\\ (?=$|[\s.,;:)])", "", "".join(made))


def _blocks(text: str) -> Iterator[list[str]]:
    """Paragraphs, sections and directives; a section ends where a line is not indented, unless a sentence goes on."""
    block: list[str] = []
    for line in [*text.expandtabs().strip("\n").splitlines(), ""]:
        blank, indented = not line.strip(), line.startswith(" ")
        in_section = bool(block) and (SECTION.match(block[0]) or block[0].startswith(".. "))
        goes_on = in_section and bool(re.match(r".*[^.:;\s]$", block[-1])) and not block[0].startswith(".. ")
        ends = bool(SECTION.match(line)) or (
            not (indented or goes_on) if in_section else blank or line.startswith(".. ")
        )
        if block and ends and not (in_section and blank):
            yield _trimmed(block)
            block = []
        if line.strip() or block:
            block.append(line)
    if block:
        yield _trimmed(block)


def _trimmed(lines: list[str]) -> list[str]:
    """Lines without the blank ones at their end."""
    while not lines[-1].strip():
        lines = lines[:-1]
    return lines


def _block(lines: list[str]) -> list[str]:
    """A paragraph, a list, a directive, or (indented) an example."""
    if lines[0].startswith(".. "):
        return lines
    if lines[0].startswith(" "):
        return ["::", "", *lines]
    made = []
    for line in lines:
        if line.startswith("* "):
            made.append("* " + escaped(line[2:]))
        else:
            text = escaped(line)
            made.append("\\" + text if line[0] in "-+=" or re.match(r"\w{1,3}[.)] |:", line) else text)
    return made


def _arguments(first: str, lines: list[str]) -> list[str]:
    """The entries of `Args` as `:param name: text`; what is no entry, as a sentence on all of them, is a field."""
    made = []
    for entry in _entries(first, lines):
        match = ENTRY.match(entry)
        if match is None:
            made.append(f":Arguments: {escaped(entry)}")
        else:
            made += [f":param {name.replace('*', chr(92) + '*')}: {escaped(match[2])}" for name in match[1].split(", ")]
    return made


def _entries(first: str, lines: list[str]) -> list[str]:
    """The entries of a section, each as one line; what goes on is indented more deeply."""
    lines = [line for line in lines if line.strip()]
    if first:
        indent, entries = 0, [first]
    else:
        indent, entries = min(len(line) - len(line.lstrip()) for line in lines), []
    for line in lines:
        if entries and (first or len(line) - len(line.lstrip()) > indent):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    return entries
