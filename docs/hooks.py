"""What MkDocs does beyond its configuration (mkdocs.yml), so that the site is made from the repository's own files.

- Pages outside `docs/` (README, CONTRIBUTING, ...) join the site, and every link is rewritten for its place there.
- The reference of the Python packages and of the command line is generated from the code.
- Mermaid pictures are drawn while the site is built, since Material would load Mermaid from a CDN in the browser.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
from pathlib import Path

import mmdr
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from rl4vlm.cli import main

ROOT = Path(__file__).parents[1]
# Pages from outside of docs/, and their addresses in the site.
PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "config/README.md": "config.md",
    "results/README.md": "results-folder.md",
}
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MERMAID = re.compile(r"^```mermaid\n(?:---\n.*?\n---\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a page may not fetch from elsewhere; a link that a reader clicks is an <a> and does not match.
EXTERNAL = re.compile(r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+rel=\"?stylesheet\"?[^>]+href=\"?https?:")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add one page per Python package to the end of the section Reference."""
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference.append({"Python packages": [{f"rl4vlm.{name}": f"api/{name}.md"} for name in packages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and every other file of the repository that a page links to."""
    for source, address in PAGES.items():
        files.append(File.generated(config, address, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "cli.md", content=command_line()))
    for name, modules in packages().items():
        files.append(File.generated(config, f"api/{name}.md", content=api_page(name, modules)))
    for file in list(files.documentation_pages()):
        text = FENCE.sub("", file.content_string)
        for _, link in LINK.findall(text):
            target = in_repository(file.src_uri, link)
            address = in_site(target)
            if (ROOT / target).is_file() and files.get_file_from_path(address) is None:
                files.append(File.generated(config, address, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's links for their places in the site, and draw its Mermaid pictures."""

    def moved(match: re.Match[str]) -> str:
        address = in_site(in_repository(page.file.src_uri, match[2]))
        return match[1] + posixpath.relpath(address, posixpath.dirname(page.file.src_uri) or ".")

    parts, end = [], 0
    # Text inside of fences is code, in which nothing is a link.
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(moved, markdown[end : fence.start()]), MERMAID.sub(drawn, fence[0])]
        end = fence.end()
    return "".join([*parts, LINK.sub(moved, markdown[end:])])


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would fetch anything from another host."""
    if found := EXTERNAL.search(output):
        raise PluginError(f"{page.file.src_uri}: the page loads something from elsewhere: {found[0]}")
    return output


def in_repository(page: str, link: str) -> str:
    """The path in the repository of what a page of the site links to.

    Args:
        page: the page's address in the site, such as `config.md`.
        link: the link as it stands in the page's source, relative to the source's place in the repository.
    """
    source = next((source for source, address in PAGES.items() if address == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def in_site(path: str) -> str:
    """The address in the site of a file of the repository; files that are no pages lie below `files/`."""
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}")


def drawn(match: re.Match[str]) -> str:
    """A Mermaid block as SVG inside of the page, on one line, since Markdown ends raw HTML at an empty one."""
    svg = " ".join(mmdr.render(match[1]).svg().split())
    return f'<div class="diagram">{svg}</div>'


def packages() -> dict[str, list[str]]:
    """The packages of rl4vlm with their modules, all as dotted names below `rl4vlm`."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "rl4vlm").rglob("*.py")):
        *folders, name = path.relative_to(ROOT / "rl4vlm").with_suffix("").parts
        if folders:
            package = found.setdefault(folders[0], [])
            if not name.startswith("__"):
                package.append(".".join([*folders, name]))
    return {name: modules for name, modules in found.items() if modules}


def api_page(package: str, modules: list[str]) -> str:
    """A page with the docstrings of a package's modules, which mkdocstrings fills in."""
    names = [f"rl4vlm.{name}" for name in modules]
    # A package without anything of its own would be an empty heading.
    if (ROOT / "rl4vlm" / package / "__init__.py").read_text().strip():
        names.insert(0, f"rl4vlm.{package}")
    return "\n\n".join([f"# {package}", *(f"::: {name}" for name in names)])


def command_line() -> str:
    """The page of the command line: what `rl4vlm --help` and `rl4vlm STAGE --help` print."""
    overview = help_text()
    stages = re.findall(r"^    ([a-z][\w-]*)(?:\s|$)", overview, re.MULTILINE)
    sections = [f"## `rl4vlm {stage}`\n\n```text\n{help_text(stage)}```" for stage in stages]
    return "\n\n".join(["# The command line", f"```text\n{overview}```", *sections])


def help_text(*stage: str) -> str:
    """What `rl4vlm [STAGE] --help` prints, at a width that fits a page."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*stage, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return printed.getvalue()
