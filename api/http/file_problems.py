"""Why an uploaded file cannot be used as a whole, with a template to translate."""

from shared.client_import.bad_file import BadFile
from shared.domain.error_texts import ErrorText, error_text

# By the codes of BadFile. The English text is the error's own; its translation is found by these.
TEMPLATES = {
    "file_empty": error_text("The file is empty: its first line must name the columns."),
    "header_quotes": error_text("The first line must name the columns; its quotes are wrong."),
    "column_twice": error_text("The header names the column %(column)s twice: leave one of them."),
    "column_missing": error_text(
        "The first line must name the columns, and %(column)s must be among them, for example: "
        "phone,operator_code,tag,timezone"
    ),
    "line_length": error_text("Line %(line)s is too long: this is neither CSV nor NDJSON."),
    "quote_open": error_text(
        "In row %(line)s a quote is opened and not closed: close it, or write a quote inside of a "
        'cell as "".'
    ),
    "encoding": error_text(
        "Somewhere after line %(line)s the file is neither UTF-8 nor Windows-1251: save it as CSV "
        "UTF-8 and send that."
    ),
    "encoding_unknown": error_text(
        "The encoding of the file is unknown: save it as CSV (in Excel: CSV UTF-8) and send that."
    ),
    "mapped_column": error_text(
        "The mapping names the column %(column)s, which the file lacks or has more than once: name "
        "it by its position, as in #3."
    ),
    "workbook_too_large": error_text(
        "The workbook is too large when it is unpacked: keep the sheet of clients only, or save it "
        "as CSV UTF-8 and send that."
    ),
    "workbook_damaged": error_text(
        "The file is not an Excel workbook (.xlsx), or is damaged: save it again as .xlsx, or as "
        "CSV UTF-8."
    ),
    "not_csv": error_text(
        "The file is not CSV: save it as CSV (in Excel: CSV UTF-8) and send that."
    ),
    "file_too_large": error_text(
        "The file is larger than %(megabytes)s MiB: split it and send the parts."
    ),
}


def describe_bad_file(error: BadFile) -> ErrorText:
    """Return the text of an error about a whole file."""
    text = str(error)
    return ErrorText(text, TEMPLATES.get(error.code, text), error.values)
