"""What a result shows in a notebook: small tables.  Eats plain results; imports nothing of the library."""

from html import escape
from typing import Any

LARGEST = 24  # steps up to which the matrix is shown
# Of a pair of steps (label needs it, output sees it): sign, colour, words.  Signs, so that colour is not needed.
CELLS = {
    (True, True): ("●", "#0072b2", "needed and seen"),
    (True, False): ("✕", "#d55e00", "needed, not seen"),
    (False, True): ("·", "inherit", "seen, not needed"),
    (False, False): ("", "inherit", "neither"),
}
LEFT = 'style="text-align:left"'  # notebooks set numbers to the right, and text with them


def html(values: dict[str, Any], facts: dict[str, str]) -> str:
    """Of a run, a forecast, a sweep or a diagnosis: what is known, in tables that every notebook can show.

    facts: what there is to say of it, by name; it comes first.
    """
    parts = [_table("", facts)]
    if "cells" in values:
        parts.append(_cells(values["cells"]))
    if budget := values.get("budget"):
        rows = {name.replace("_", " "): value for name, value in budget.items()}
        parts.append(_table("where the loss went (nats per step)", rows))
    if rungs := values.get("ladder"):
        rows = {f"{r['rung']} {r['family'] or ''}".replace("_", " "): r["loss"] for r in rungs}
        parts.append(_table("what a model may use, and the loss that it can reach (nats per step)", rows))
    needs, sees = values.get("label_dependence"), values.get("receptive_field")
    if needs and sees and len(needs) == len(sees) <= LARGEST:
        parts.append(_matrix(needs, sees))
    if remedies := (values.get("verdict") or {}).get("remedies"):
        rows = {r["change"]: r["reachable_loss"] for r in remedies}
        parts.append(_table("what would help, and the loss that it can reach (nats per step)", rows))
    return "\n".join(parts)


def _table(title: str, rows: dict[str, Any]) -> str:
    body = "".join(f"<tr>{_cell('th', name)}{_cell('td', value)}</tr>" for name, value in rows.items())
    return f"<table>{_caption(title)}<tbody>{body}</tbody></table>"


def _cells(cells: list[dict[str, Any]]) -> str:
    """A row for each cell of a sweep: its settings, forecast beside outcome, and the cause or the error."""
    rows = []
    for cell in cells:
        row: dict[str, Any] = {name: str(value) for name, value in cell["settings"].items()}
        row["forecast"] = cell.get("forecast", {}).get("family_loss")
        row["validation loss"] = cell.get("final", {}).get("val_loss")
        row["verdict"] = cell.get("error") or (cell.get("verdict") or {}).get("cause")
        rows.append(row)
    head = "".join(_cell("th", name) for name in rows[0])
    body = "".join(f"<tr>{''.join(_cell('td', value) for value in row.values())}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _matrix(needs: list[list[bool]], sees: list[list[bool]]) -> str:
    """Labels down, input steps across; a title on every cell says what its sign means."""

    def cell(t: int, s: int) -> str:
        sign, colour, words = CELLS[bool(needs[t][s]), bool(sees[t][s])]
        return f'<td style="color:{colour};text-align:center" title="label {t}, step {s}: {words}">{sign}</td>'

    steps = range(len(needs))
    head = "<th></th>" + "".join(_cell("th", f"step {s}") for s in steps)
    body = "".join(f"<tr>{_cell('th', f'label {t}')}{''.join(cell(t, s) for s in steps)}</tr>" for t in steps)
    key = ", ".join(f"{sign} {words}" for sign, _, words in CELLS.values() if sign)
    title = f"which label needs which step ({key})"
    return f"<table>{_caption(title)}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _caption(title: str) -> str:
    return f"<caption {LEFT}>{escape(title)}</caption>" if title else ""


def _cell(tag: str, value: Any) -> str:
    text = "-" if value is None else f"{value:.4f}" if isinstance(value, float) else escape(str(value))
    return f"<{tag} {LEFT}>{text}</{tag}>"
