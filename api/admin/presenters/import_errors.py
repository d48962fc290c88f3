"""Messages about an imported file or its rows: what is wrong and how to correct it, by code."""

from flask_babel import LazyString, lazy_gettext
from flask_babel import gettext as _

from api.admin.presenters.plurals import ngettext
from api.clients.import_service import RejectedCell
from api.errors import ServiceError
from shared.client_import.bad_file import BadFile

ZONE_LIKE = lazy_gettext("Write a time zone such as %(found)s.")
CELL_ERRORS: dict[str, LazyString] = {
    "phone_format": lazy_gettext(
        "The phone needs 11 digits and starts with 7, for example 79161234567."
    ),
    "phone_shortened": lazy_gettext(
        "A spreadsheet has shortened the phone (as in 7,9E+10): format the column as text, enter "
        "the phones again and export."
    ),
    "operator_code_format": lazy_gettext(
        "The operator code has exactly 3 digits, for example 916, or stays empty."
    ),
    "client_deleted": lazy_gettext("The client was deleted after this file was sent."),
    "tag_length": lazy_gettext("The tag may have at most 64 characters."),
    "phone_decimal": lazy_gettext(
        "This is a decimal number, not a phone: write all 11 digits, for example 79161234567."
    ),
    "phone_extension": lazy_gettext(
        "Leave out the extension (%(found)s): messages cannot reach one."
    ),
    "phone_several": lazy_gettext("Give each phone a row of its own: %(found)s."),
    "phone_foreign": lazy_gettext(
        "This phone is of another country: only phones that start with +7 can be written to."
    ),
    "timezone_unknown": lazy_gettext("Write a time zone such as Europe/Moscow."),
    "timezone_offset": lazy_gettext(
        "Several zones have this offset. If %(found)s is meant, confirm it when importing again."
    ),
    "too_many_attributes": lazy_gettext("A client has at most 20 attributes: leave some out."),
    "timezone_missing": lazy_gettext(
        "Fill in the time zone, or import again with a time zone for rows without one."
    ),
    "line_break": lazy_gettext("The cell holds a line break: look for a quote that is not closed."),
    "value_length": lazy_gettext("The cell may have at most 200 characters."),
    "quotes": lazy_gettext(
        "Quotes must enclose a whole cell; a quote inside of one is written twice."
    ),
    "too_many_cells": lazy_gettext(
        "The row has more cells than the first line: put a cell that holds the delimiter in quotes."
    ),
}
MAPPING_ERRORS: dict[str, LazyString] = {
    "attribute_name": lazy_gettext(
        "The name of an attribute has 1 to 32 letters, digits or underscores."
    ),
    "used_twice": lazy_gettext("Two columns cannot be the same. Choose something else for one."),
    "phone_missing": lazy_gettext("Choose the column with the phones."),
    "timezone_unknown": lazy_gettext("Write a time zone such as Europe/Moscow."),
}
UNDO_REFUSALS: dict[str, LazyString] = {
    "import_used": lazy_gettext(
        "Mailings have used the clients of this import, and what was sent cannot be undone. "
        "Correct the clients with another import."
    ),
    "too_much_under_way": lazy_gettext(
        "Too much other work is under way. Try again in a few seconds."
    ),
    "import_running": lazy_gettext("The import is still running: wait until it is finished."),
    "import_not_last": lazy_gettext("Only the last import can be undone, and another came later."),
    "import_undone": lazy_gettext("The import is being undone, or is undone already."),
    "undo_expired": lazy_gettext(
        "The earlier values of its clients are no longer kept. Correct the clients with another "
        "import."
    ),
}
COLUMN_LABELS: dict[str, LazyString] = {
    "phone": lazy_gettext("Phone"),
    "operator_code": lazy_gettext("Operator code"),
    "tag": lazy_gettext("Tag"),
    "timezone": lazy_gettext("Time zone"),
}
FILE_ERRORS: dict[str, LazyString] = {
    "file_empty": lazy_gettext("The file is empty. Its first line must name the columns."),
    "header_quotes": lazy_gettext(
        "The quotes in the first line are wrong. It must name the columns."
    ),
    "encoding_unknown": lazy_gettext(
        "The encoding of this file is unknown. In Excel, choose Save as and then CSV UTF-8."
    ),
    "workbook_too_large": lazy_gettext(
        "The workbook is too large when it is unpacked. Keep the sheet of clients only, or save it "
        "as CSV UTF-8."
    ),
    "workbook_damaged": lazy_gettext(
        "This is not an Excel workbook (.xlsx), or it is damaged. Save it again as .xlsx, or as "
        "CSV UTF-8."
    ),
    "not_csv": lazy_gettext(
        "This is no CSV file. In Excel, choose Save as and then CSV UTF-8, and import that file."
    ),
    "checked_again": lazy_gettext("The file was checked again meanwhile. Look at the result."),
    "given_up": lazy_gettext("The file came in too slowly. Import it again."),
}


def describe_cell_error(error: RejectedCell, *, checked: bool = False) -> str:
    """Return what to correct in a cell, in the reader's language.

    The page of a `checked` file has the field that confirms an offset.
    """
    if checked and error.code == "timezone_offset":
        return str(_("Several zones have this offset: confirm above which one is meant."))
    if error.code == "repeated":
        return str(
            _(
                "The phone comes again in row %(row)s with other values: the last one counts.",
                row=error.found,
            )
        )
    message = CELL_ERRORS.get(error.code)
    if error.code == "timezone_unknown" and error.found:
        message = ZONE_LIKE
    if message is None:
        return error.detail
    return str(message) % {"found": error.found} if error.found else str(message)


def describe_file_error(error: BadFile) -> str:
    """Return why a file cannot be imported and what to do, in the reader's language."""
    values = error.values
    match error.code:
        case "column_twice":
            message = _(
                "The first line names the column “%(column)s” twice: leave one of them.",
                column=_column_label(values["column"]),
            )
        case "column_missing":
            message = _(
                "The first line must name the columns, and “%(column)s” must be among them.",
                column=_column_label(values["column"]),
            )
        case "line_length":
            message = _("Line %(line)s is far too long: this is no CSV file.", line=values["line"])
        case "quote_open":
            message = _(
                "In row %(line)s a quote is opened and not closed. Close it, or write a quote "
                "inside of a cell twice.",
                line=values["line"],
            )
        case "encoding":
            message = _(
                "After line %(line)s the file is neither UTF-8 nor Windows-1251: save it as "
                "CSV UTF-8 and import that.",
                line=values["line"],
            )
        case "file_too_large":
            message = _(
                "The file is larger than %(n)s MB: split it and import the parts.",
                n=values["megabytes"],
            )
        case _:
            message = str(FILE_ERRORS.get(error.code) or error)
    return str(message)


def describe_undo_refusal(refusal: ServiceError) -> str:
    """Return why an import cannot be undone and what to do, in the reader's language."""
    if refusal.code == "clients_edited":
        return ngettext(
            "%(num)s client of this import was edited since. It can stay as it is.",
            "%(num)s clients of this import were edited since. They can stay as they are.",
            refusal.members["edited"],
        )
    return str(UNDO_REFUSALS.get(refusal.code) or refusal.detail)


def _column_label(name: object) -> str:
    return str(COLUMN_LABELS.get(str(name)) or name)
