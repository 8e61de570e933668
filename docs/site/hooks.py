"""Adapts the documents to the site: in the repository they also link to files outside docs/, and some lie there."""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Pages of the site whose documents lie elsewhere in the repository.
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "examples.md": "examples/README.md",
} | {f"{card.parent.name}.md": f"weights/{card.parent.name}/README.md" for card in ROOT.glob("weights/*/README.md")}
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages whose documents lie outside docs/."""
    for page, document in ELSEWHERE.items():
        content = (ROOT / document).read_text("utf-8")
        if page == "examples.md":
            content += _programs(ROOT / "examples")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links at pages of the site; a file that is not part of it keeps its name alone."""
    folder = posixpath.dirname(ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    pages = {document: f"docs/{name}" for name, document in ELSEWHERE.items()} | {"README.md": "docs/index.md"}

    def adapt(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        path = pages.get(path, path)
        if path.startswith("docs/"):
            here = posixpath.dirname(f"docs/{page.file.src_uri}")
            return f"[{text}]({posixpath.relpath(path, here)}{anchor or ''})"
        return f"[{text}]({config.repo_url}/blob/main/{path})" if config.repo_url else text

    return LINK.sub(adapt, markdown)


def _programs(folder: Path) -> str:
    """Returns the example programs as Markdown."""
    parts = []
    for path in sorted(folder.glob("*.py")):
        source = path.read_text("utf-8")
        title = (ast.get_docstring(ast.parse(source)) or path.stem).splitlines()[0].rstrip(".")
        parts.append(f"\n## {title}\n\n`examples/{path.name}`\n\n```python\n{source}```\n")
    return "".join(parts)
