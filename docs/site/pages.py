"""A hook of mkdocs: which pages the site has beside those in docs/.

- `index.md`, `contributing.md` and `changelog.md` are README.md, CONTRIBUTING.md and CHANGELOG.md, with their links
  turned to where the pages stand in the site.
- `notebooks/NAME.md` is a notebook of notebooks/, its cells one after the other.
- `reference/ROOM.md` is the API reference of a folder of mot_gen/, one entry a module, found by reading the folders.
  It is read from a copy in build/reference, where every folder has an `__init__.py`: griffe, which reads the code, does
  not look into folders without one, and three of ours must have none (docs/decisions.md).

After the build, `on_post_build` refuses a page that would load anything from another host.
"""

import json
import re
import shutil
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mot_gen"
COPY = ROOT / "build" / "reference"  # `paths` of mkdocs.yml
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]+", re.IGNORECASE)
STYLED = re.compile(r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect))[^>]*\bhref=[\"']?(?:https?:)?//")


def on_config(config):
    """List the API reference, and pages that mkdocs.yml does not name, in the navigation."""
    named = re.findall(r"[\w/-]+\.md", json.dumps(config.nav))
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    if others:
        config.nav.insert(-1, {"More": others})
    for entry in config.nav:
        if "API reference" in entry:
            entry["API reference"] = ["reference/index.md", *(f"reference/{room}.md" for room in rooms())]
    return config


def on_startup(**_):
    """Copy the code for the API reference, before mkdocstrings looks for it."""
    copy_code()


def on_files(files: Files, config) -> Files:
    """Add the pages that are made here to those of docs/."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=turned(ROOT / name, "")))
    if notebooks():
        index = turned(ROOT / "notebooks" / "README.md", "../")
        files.append(File.generated(config, "notebooks/index.md", content=index))
    for path in notebooks():
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=as_markdown(path)))
    files.append(File.generated(config, "reference/index.md", content=flat_names()))
    for room, modules in rooms().items():
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room, modules)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Turn the links of a page of docs/ that leave docs/, such as ../CONTRIBUTING.md."""
    if page.file.generated_by:
        return markdown
    return LINK.sub(lambda link: f"]({to_page(ROOT / 'docs', link[1], '')}", markdown)


def on_post_build(config):
    """Refuse a site that loads scripts, styles or pictures from another host."""
    for path in Path(config.site_dir).rglob("*.html"):
        text = path.read_text("utf-8")
        found = LOADED.search(text) or STYLED.search(text)
        if found:
            raise PluginError(f"{path.name} would load {found[0]!r}; the site must load nothing from elsewhere.")


def copy_code():
    """Copy mot_gen with what its links lead to, and give every folder of code an `__init__.py`."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(PACKAGE, COPY / "mot_gen", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for module in COPY.rglob("*.py"):
        (module.parent / "__init__.py").touch()


def turned(path: Path, up: str) -> str:
    """A file's markdown, its links turned to the pages of the site; `up` leads to the site's root from the page."""
    return LINK.sub(lambda link: f"]({to_page(path.parent, link[1], up)}", path.read_text("utf-8"))


def to_page(folder: Path, link: str, up: str) -> str:
    """Where a link to a file of the repository leads in the site; one that no page stands for is left as it is."""
    target = (folder / link).resolve()
    if not target.is_relative_to(ROOT):
        return link
    name = target.relative_to(ROOT).as_posix()
    if name in FROM_ROOT:
        return up + FROM_ROOT[name]
    if name.startswith("docs/"):
        return up + name.removeprefix("docs/")
    if name == "notebooks" or name == "notebooks/README.md":
        return up + "notebooks/index.md"
    if name.endswith(".ipynb"):
        return up + name.removesuffix(".ipynb") + ".md"
    return link


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def as_markdown(path: Path) -> str:
    """A notebook as a page: texts as they are, code in fences."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            source = f"```python\n{source}\n```"
        else:
            source = LINK.sub(lambda link: f"]({to_page(path.parent, link[1], '../')}", source)
        parts.append(source)
    return "\n\n".join(parts) + "\n"


def rooms() -> dict[str, list[str]]:
    """Folder of mot_gen -> its modules by dotted name; modules that stand in no folder are the room "modules"."""
    found: dict[str, list[str]] = {"modules": []}
    for path in sorted(PACKAGE.iterdir()):
        if path.suffix == ".py" and not path.stem.startswith("_"):
            found["modules"].append(f"mot_gen.{path.stem}")
        if (path / "__init__.py").exists() or path.is_symlink():
            modules = modules_below(path, f"mot_gen.{path.name}")
            if modules:
                found[path.name] = modules
    return found


def modules_below(folder: Path, name: str) -> list[str]:
    """Dotted names of the modules of a folder and of the folders in it; packages whose file is empty are left out."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name == "__init__.py" and len(path.read_text("utf-8").splitlines()) > 1:
            found.append(name)
        elif path.suffix == ".py" and not path.stem.startswith("_"):
            found.append(f"{name}.{path.stem}")
        elif path.is_dir() and path.name != "__pycache__":
            found += modules_below(path, f"{name}.{path.name}")
    return found


def reference(room: str, modules: list[str]) -> str:
    title = "Modules of their own" if room == "modules" else f"mot_gen.{room}"
    return f"# {title}\n\n" + "".join(f"::: {module}\n\n" for module in modules)


def flat_names() -> str:
    """The page of the names that `from mot_gen import ...` offers, each with the module that it links to."""
    import mot_gen

    lines = [f"| [`{name}`][mot_gen.{home}.{name}] | `mot_gen.{home}` |" for name, home in mot_gen._HOME.items()]
    head = (
        "# API reference\n\nThese names are imported from the package itself, for example"
        " `from mot_gen import TextToImagePipeline`. The other pages of this section list every module.\n\n"
        "| name | lives in |\n|---|---|\n"
    )
    return head + "\n".join(lines) + "\n"
