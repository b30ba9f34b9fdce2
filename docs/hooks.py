"""What MkDocs cannot do by itself: the notebook as a page, pictures from ``bench/``, equations without scripts, and the
runtime of the page that runs a model."""

import base64
import functools
import gzip
import hashlib
import html
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "bench" / "puppet_cnn.ipynb"
# Links to pictures and results as they are on a code host, from docs/ to the folder beside it.
PICTURES = re.compile(r"(!\[[^\]]*\]\()\.\./(bench/(?:results|figures)/[\w.-]+\.(?:png|svg)\))")
NUMBER = re.compile(r"\\tag\{(\w+)\}")
FOLDED = re.compile(r"<table>.*?</table>|<li>.*?</li>", re.S)
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
EQUATIONS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def notebook_page(notebook: dict) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures that it shows, by the names that the page gives them."""
    parts, pictures = ["<!-- made from bench/puppet_cnn.ipynb -->"], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        # Folded: most readers come for what the cells show.
        parts.append(f'<details markdown="1"><summary>Code</summary>\n\n```python\n{source}\n```\n\n</details>')
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"notebook_{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![]({name})")
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
    return "\n\n".join(parts) + "\n", pictures


def runtime() -> dict[str, bytes]:
    """What the demo runs a model by: of the npm package, which stays in the user's cache, the program and its
    WebAssembly, packed. Nothing if npm or the network is missing: the page then says so."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "puppet_jax"
    file = cache / f"{RUNTIME}-{VERSION}.tgz"
    try:
        if not file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                command = ["npm", "pack", f"{RUNTIME}@{VERSION}"]
                subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
                (pathlib.Path(folder) / file.name).replace(file)
        content = file.read_bytes()
        if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
            raise OSError(f"{file} is damaged or another package; remove it")
    except (OSError, subprocess.SubprocessError) as error:
        print(f"docs/demo.md: without its runtime, {RUNTIME} {VERSION} ({error})", file=sys.stderr)
        return {}
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        script, program = (
            package.extractfile(f"package/dist/{name}").read()
            for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
        )
    return {"demo/ort.js": script, "demo/ort.bin": gzip.compress(program, mtime=0)}


@functools.cache
def model() -> bytes:
    """What the demo runs: ``python -m train export puppet_s_cifar10_int8 FILE.onnx --weights int8 --batch 1``."""
    import puppet_jax as pj

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.onnx"
        pj.export(pj.compile_predict(pj.load_pretrained("puppet_s_cifar10_int8")), file, weights="int8", batch=1)
        return file.read_bytes()


def on_files(files, config):
    """Add what lies outside of ``docs/``: the notebook, the pictures of results, and the demo's runtime."""
    from mkdocs.structure.files import File

    page, pictures = notebook_page(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    files.append(File.generated(config, "notebook.md", content=page))
    for name, content in (pictures | runtime() | {"demo/model.onnx": model()}).items():
        files.append(File.generated(config, name, content=content))
    for folder in ("results", "figures"):
        for path in sorted((ROOT / "bench" / folder).glob("*.png")):
            files.append(File.generated(config, f"bench/{folder}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    """Pictures of ``bench/`` are where :func:`on_files` put them."""
    return PICTURES.sub(r"\1\2", markdown)


def on_page_content(content, page, **_):
    """Equations as MathML, which browsers show by themselves; long tables and paragraphs of results folded."""
    from latex2mathml.converter import convert

    def equation(found):
        text, block = html.unescape(found[2]), found[1] == "div"
        number = NUMBER.search(text)
        shown = convert(NUMBER.sub("", text), display="block" if block else "inline")
        if not block:
            return shown
        return f'<div class="equation">{shown}<span>{f"({number[1]})" if number else ""}</span></div>'

    def folded(found):
        rows = found[0].count("<tr>") - 1
        if rows < 0:  # an item of a list
            begun, _, rest = found[0].removeprefix("<li>").removesuffix("</li>").partition(":")
            return found[0] if len(rest) < 600 else f"<li><details><summary>{begun}</summary>{rest}</details></li>"
        table = f"表（{rows} 行）" if page.file.src_uri.endswith(".ja.md") else f"Table of {rows} rows"
        return found[0] if rows < 5 else f"<details><summary>{table}</summary>{found[0]}</details>"

    if page.file.src_uri.startswith("results"):
        content = FOLDED.sub(folded, content)
    return EQUATIONS.sub(equation, content)
