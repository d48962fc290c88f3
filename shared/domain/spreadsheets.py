"""CSV cells: keep spreadsheets from executing a text as a formula, and undo that on import."""

# Signs that start a formula, also in their full-width forms, and characters that a spreadsheet
# skips before looking for such a sign.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def escape_formula(cell: str) -> str:
    """Prefix an apostrophe to a text that a spreadsheet would execute as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def unescape_formula(cell: str) -> str:
    """Remove the apostrophe that `escape_formula` has prefixed."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA_STARTS) else cell
