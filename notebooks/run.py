"""Run a notebook's cells in one process and store what they show, for notebooks that only use numpy, pandas, figures.

python notebooks/run.py notebooks/gpu_models.ipynb
"""

import ast
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any


def outputs(shown: Any, number: int | None) -> dict[str, Any]:
    """One output: a picture, a table or text; `number` of the cell for its last value, None for `display`."""
    data: dict[str, Any] = {"text/plain": [str(shown)]}
    if hasattr(shown, "savefig"):
        picture = io.BytesIO()
        shown.savefig(picture, format="png", dpi=90, metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": [f"<{type(shown).__name__}>"]}
    elif hasattr(shown, "_repr_html_"):
        data = {"text/html": shown._repr_html_().splitlines(keepends=True)} | data
    kind = {"output_type": "display_data"} if number is None else {"output_type": "execute_result"}
    return kind | ({} if number is None else {"execution_count": number}) | {"data": data, "metadata": {}}


def run_cell(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Executes a cell; its outputs are what it displays and its last expression."""
    found: list[dict[str, Any]] = []
    names["display"] = lambda shown: found.append(outputs(shown, None))
    body = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, f"cell {number}", "exec"), names)
    value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names) if last else None
    return found if value is None else [*found, outputs(value, number)]


def main() -> None:
    """Run and write."""
    path, names, number = Path(sys.argv[1]), {"__name__": "__main__"}, 0
    book = json.loads(path.read_text("utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = run_cell("".join(cell["source"]), names, number)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
